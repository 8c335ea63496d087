"""What Go calls: thread-pooled gRPC servers, and servicers over objects they are given."""
