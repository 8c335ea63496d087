package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
)

const shownNumbers = 5

type embedFlags struct {
	processorFlags
	text  string
	local bool
}

func (e *embedFlags) register(flags *flag.FlagSet) {
	e.processorFlags.register(flags)
	flags.StringVar(&e.text, "text", "", "the `text` (required)")
	flags.BoolVar(&e.local, "vector", false, "use the processor's local model: no key, no provider")
}

func (e *embedFlags) complete() error {
	if e.text == "" {
		return errors.New("-text is missing")
	}
	if !e.local && e.key().Secret == "" {
		return errors.New("EMBEDDING_API_KEY is not set; -vector needs no key")
	}
	return nil
}

func embed(ctx context.Context, args []string, stdout io.Writer) error {
	var flags embedFlags
	if err := parse("embed", args, flags.register, flags.complete); err != nil {
		return err
	}
	log := newLog(stdout, slog.LevelInfo)
	vector, err := flags.vector(ctx, log)
	if err != nil {
		return err
	}
	log.Info("embedding", "dimension", len(vector), "first", vector[:min(shownNumbers, len(vector))])
	return nil
}

func (e *embedFlags) vector(ctx context.Context, log *slog.Logger) ([]float32, error) {
	client, closeClient, err := e.connect(log)
	if err != nil {
		return nil, err
	}
	defer closeClient()
	if e.local {
		return client.Vector(ctx, e.text)
	}
	return client.Embed(ctx, "embed", e.text, e.key())
}
