package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"

	"cognicore/ingest"
	"cognicore/pb"
)

const shutdownGrace = 10 * time.Second

func serve(ctx context.Context, args []string, stdout io.Writer) error {
	var flags receiverFlags
	complete := func() error { return nil }
	if err := parse("serve", args, flags.register, complete); err != nil {
		return err
	}
	receiver, err := flags.open(newLog(stdout, flags.level()))
	if err != nil {
		return err
	}
	return receiver.serve(ctx)
}

// receiver is the IngestService, listening, with the files it keeps.
type receiver struct {
	store    *ingest.FileStore
	listener net.Listener
	server   *grpc.Server
}

func (r *receiverFlags) open(log *slog.Logger) (*receiver, error) {
	store, err := ingest.NewFileStore(r.out)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", r.listen)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(ingest.ServerOptions(os.Getenv("INGEST_AUTH_TOKEN"))...)
	pb.RegisterIngestServiceServer(server, ingest.NewServer(store, log))
	log.Info("listening", "address", listener.Addr().String(), "out", r.out)
	return &receiver{store: store, listener: listener, server: server}, nil
}

func (r *receiverFlags) level() slog.Level {
	if r.verbose {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// serve receives until ctx ends; then the streams that run may finish, for a while.
func (r *receiver) serve(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, func() {
		force := time.AfterFunc(shutdownGrace, r.server.Stop)
		defer force.Stop()
		r.server.GracefulStop()
	})
	defer unhook()
	err := r.server.Serve(r.listener)
	if errors.Is(err, grpc.ErrServerStopped) { // ctx ended before it began
		return nil
	}
	return err
}
