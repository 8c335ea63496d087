package main

import (
	"context"
	"errors"
	"flag"
	"io"
)

type runFlags struct {
	receiverFlags
	submitFlags
}

func (r *runFlags) register(flags *flag.FlagSet) {
	r.receiverFlags.register(flags)
	r.submitFlags.register(flags)
}

// run does what a real backend does, in one process and for one document.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	var flags runFlags
	if err := parse("run", args, flags.register, flags.complete); err != nil {
		return err
	}
	log := newLog(stdout, flags.level())
	receiver, err := flags.open(log)
	if err != nil {
		return err
	}
	err = receiver.serveDuring(ctx, func() error { return flags.process(ctx, log) })
	if err != nil {
		return err
	}
	path := receiver.store.Path(flags.task.DocID)
	summary, err := summarize(path)
	if err != nil {
		return err
	}
	log.Info("arrived", "path", path, "chunks", summary.chunks, "last_page", summary.lastPage,
		"dimension", summary.dimension, "chapters", summary.chapters)
	return nil
}

// serveDuring receives documents until work is done.
func (r *receiver) serveDuring(ctx context.Context, work func() error) error {
	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- r.serve(serving) }()
	err := work()
	stop()
	return errors.Join(err, <-served)
}
