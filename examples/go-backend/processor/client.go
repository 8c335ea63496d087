// Package processor is the sending half of a Go backend: it pushes tasks, hands over
// API keys, follows tasks to their end and asks for embeddings.
package processor

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"cognicore/pb"
)

const (
	maxMessageBytes = 50 << 20
	callTimeout     = 10 * time.Second
	embedTimeout    = time.Minute // a provider may be slow, and calls may wait for their turn
)

// Client talks to the processor. Its fields are the generated clients, for the calls
// that have no method here, such as Tasks.CancelTask.
type Client struct {
	Keys       pb.APIKeyServiceClient
	Tasks      pb.TaskServiceClient
	Vectors    pb.VectorizerServiceClient
	Embeddings pb.EmbeddingServiceClient

	log   *slog.Logger
	pause time.Duration // between two looks at a task that cannot be watched
}

// New makes a Client from connections to the processor's two ports, 50052 and 50053.
// It logs "call_failed" for every try that is to be repeated.
func New(processor, embedding grpc.ClientConnInterface, log *slog.Logger) *Client {
	return &Client{
		Keys:       pb.NewAPIKeyServiceClient(processor),
		Tasks:      pb.NewTaskServiceClient(processor),
		Vectors:    pb.NewVectorizerServiceClient(processor),
		Embeddings: pb.NewEmbeddingServiceClient(embedding),
		log:        log,
		pause:      time.Second,
	}
}

// Dial returns a connection that is made at its first use and made again whenever it
// breaks. With a token, every call carries it. It is plain text; for TLS add
// grpc.WithTransportCredentials to the options, which come last and win.
func Dial(address, token string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = 5 * time.Second
	defaults := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: reconnect, MinConnectTimeout: callTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes),
		),
	}
	if token != "" {
		defaults = append(defaults, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return grpc.NewClient(address, append(defaults, options...)...)
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity is false so that a token works inside a private network.
func (b bearer) RequireTransportSecurity() bool { return false }
