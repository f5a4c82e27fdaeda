"""One file per question about speed; each says its method."""
