package ingest

import (
	"context"
	"crypto/subtle"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const maxMessageBytes = 50 << 20

// ServerOptions returns what a grpc.Server needs to get along with the processor:
// room for large messages, patience with pings, a look-out for peers that vanished.
// With a token, streams must bring it as `authorization: Bearer <token>`.
func ServerOptions(token string) []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: 5 * time.Second, PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second,
		}),
	}
	if token != "" {
		options = append(options, grpc.StreamInterceptor(requireToken(token)))
	}
	return options
}

func requireToken(token string) grpc.StreamServerInterceptor {
	expected := []byte("Bearer " + token)
	return func(
		service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler,
	) error {
		if !authorized(stream.Context(), expected) {
			return status.Error(codes.Unauthenticated, "wrong or missing ingest token")
		}
		return next(service, stream)
	}
}

func authorized(ctx context.Context, expected []byte) bool {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	return len(values) == 1 && subtle.ConstantTimeCompare([]byte(values[0]), expected) == 1
}
