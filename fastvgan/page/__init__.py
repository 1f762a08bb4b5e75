"""The page of `fastvgan demo`: clips from sentences, and training runs watched live."""
