"""Where documents come from: the web, the bucket, this machine; and what is refused."""
