"""The gRPC scaffold of the four services, and the client of `hagd submit`. Never imports torch."""
