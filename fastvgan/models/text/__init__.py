"""How networks read text: encoders that train along, and embeddings by a pretrained text model."""
