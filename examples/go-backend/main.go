// Command cognicore is a Go backend for PDF Processor, small enough to copy: it pushes
// tasks, hands over API keys, follows tasks and receives documents. It prints one JSON
// object a line on stdout.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9/logging"
)

const usage = `usage: cognicore COMMAND [flags]

  run     receive documents, push one task and follow it until its document arrived
  serve   receive documents
  submit  push a task, hand over its key and follow it to its end
  embed   ask for the vector of a text

cognicore COMMAND -h lists the flags.
`

// errUsage has been explained on stderr already.
var errUsage = errors.New("wrong usage")

var commands = map[string]func(ctx context.Context, args []string, stdout io.Writer) error{
	"run":    run,
	"serve":  serve,
	"submit": submit,
	"embed":  embed,
}

func main() {
	logging.Disable() // every try to reach Redis; the error says what came of them
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	os.Exit(start(ctx, os.Args[1:], os.Stdout))
}

// start returns the exit code: 0 done, 1 failed, 2 wrong usage.
func start(ctx context.Context, args []string, stdout io.Writer) int {
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	err := commands[args[0]](ctx, args[1:], stdout)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}

// newLog writes events as JSON lines; level tells which.
func newLog(stdout io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(stdout, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.MessageKey {
				attr.Key = "event"
			}
			return attr
		},
	}))
}
