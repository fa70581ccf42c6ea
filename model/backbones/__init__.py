"""What turns pixels into feature maps."""
