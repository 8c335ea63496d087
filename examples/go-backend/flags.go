package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"cognicore/processor"
)

// parse reads flags; register declares them, and complete says what is wrong with them.
func parse(name string, args []string, register func(*flag.FlagSet), complete func() error) error {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	register(flags)
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	err := complete()
	if flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return errUsage
	}
	return nil
}

func env(name, fallback string) string { return cmp.Or(os.Getenv(name), fallback) }

// processorFlags tell where the processor is and how to be let in.
type processorFlags struct {
	address   string
	embedding string
	provider  string
}

func (p *processorFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&p.address, "processor", env("PROCESSOR_ADDR", "localhost:50052"),
		"the processor's port for keys and tasks; `host:port`, or PROCESSOR_ADDR")
	flags.StringVar(&p.embedding, "embedding", env("EMBEDDING_ADDR", "localhost:50053"),
		"the processor's port for embeddings; `host:port`, or EMBEDDING_ADDR")
	flags.StringVar(&p.provider, "provider", "openai",
		"the `name` of the provider that the key in EMBEDDING_API_KEY is for")
}

// key comes from the environment: a flag would show in the list of processes.
func (p *processorFlags) key() processor.Key {
	return processor.Key{Provider: p.provider, Secret: os.Getenv("EMBEDDING_API_KEY")}
}

// taskFlags describe one task and the queue it goes to.
type taskFlags struct {
	task  processor.Task
	redis string
	queue string
}

func (t *taskFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&t.task.URL, "url", "", "`URL` of the PDF (required)")
	flags.StringVar(&t.task.TaskID, "task-id", "", "`id` of the task (default: a new one)")
	flags.StringVar(&t.task.DocID, "doc-id", "", "`id` of the document (default: the task's)")
	flags.StringVar(&t.task.UserID, "user", "", "`id` of the user")
	flags.StringVar(&t.task.FileName, "file-name", "", "`name` to show")
	flags.Int64Var(&t.task.FileSize, "size", 0, "size of the PDF in `bytes`, where known")
	flags.StringVar(&t.redis, "redis", "",
		"`URL` of the Redis with the queue, or REDIS_URL (default \"redis://localhost:6379/0\")")
	flags.StringVar(&t.queue, "queue", env("REDIS_QUEUE_NAME", processor.DefaultQueue),
		"`name` of the queue, or REDIS_QUEUE_NAME")
}

// complete fills in the ids that were left out.
func (t *taskFlags) complete() error {
	if t.task.URL == "" {
		return errors.New("-url is missing: where is the PDF?")
	}
	t.task.TaskID = cmp.Or(t.task.TaskID, "task-"+rand.Text())
	t.task.DocID = cmp.Or(t.task.DocID, t.task.TaskID)
	_, err := t.redisOptions()
	return err
}

func (t *taskFlags) redisOptions() (*redis.Options, error) {
	address := cmp.Or(t.redis, os.Getenv("REDIS_URL"), "redis://localhost:6379/0")
	options, err := redis.ParseURL(address)
	if err != nil { // the error would show the password
		return nil, errors.New("-redis or REDIS_URL is not a URL like redis://localhost:6379/0")
	}
	options.Password = cmp.Or(options.Password, os.Getenv("REDIS_PASSWORD"))
	return options, nil
}

// receiverFlags tell how documents are received.
type receiverFlags struct {
	listen  string
	out     string
	verbose bool
}

func (r *receiverFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&r.listen, "listen", "127.0.0.1:50051", "`host:port` to receive documents at")
	flags.StringVar(&r.out, "out", "documents", "`directory` that documents are kept in")
	flags.BoolVar(&r.verbose, "verbose", false, "print a line for every chunk, too")
}
