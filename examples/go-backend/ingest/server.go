package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cognicore/pb"
)

type (
	incoming = grpc.ClientStreamingServer[pb.IngestRequest, pb.IngestResponse]
	response = pb.IngestResponse
)

// Server is the IngestService. For every stream it
//
//  1. reads the metadata, which comes first, and begins a draft;
//  2. adds chunk after chunk, in order;
//  3. at the end of the stream commits the draft and answers with the count; when
//     the stream breaks or is cancelled, discards it.
//
// How documents are kept is its Store's business.
type Server struct {
	pb.UnimplementedIngestServiceServer

	store Store
	log   *slog.Logger
}

// NewServer returns a Server that keeps documents in store. It logs "document",
// "stream_cancelled" or "stream_rejected" once a stream and, at debug level, "chunk".
func NewServer(store Store, log *slog.Logger) *Server {
	return &Server{store: store, log: log}
}

// IngestDocument receives one document.
func (s *Server) IngestDocument(stream incoming) error {
	document, err := receiveMetadata(stream)
	if err != nil {
		s.logBroken(s.log, stream, 0, err)
		return err
	}
	log := s.log.With("doc_id", document.GetDocId(), "task_id", document.GetTaskId(),
		"attempt", document.GetAttempt())
	chunks, err := s.keep(stream, document, log)
	if err != nil {
		s.logBroken(log, stream, chunks, err)
		return err
	}
	log.Info("document", "chunks", chunks, "file_name", document.GetFileName(),
		"pages", document.GetPageCount(), "dimension", document.GetEmbeddingDimension())
	return stream.SendAndClose(&response{Success: true, Message: "kept", ChunksReceived: chunks})
}

func receiveMetadata(stream incoming) (*pb.DocumentMetadata, error) {
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	document := first.GetMetadata()
	if document == nil {
		return nil, status.Error(codes.InvalidArgument, "the first message must be metadata")
	}
	if document.GetDocId() == "" {
		return nil, status.Error(codes.InvalidArgument, "metadata.doc_id is empty")
	}
	return document, nil
}

// keep returns how many chunks were taken, also when it fails.
func (s *Server) keep(
	stream incoming, document *pb.DocumentMetadata, log *slog.Logger,
) (int32, error) {
	ctx := stream.Context()
	draft, err := s.store.Begin(ctx, document)
	if err != nil {
		return 0, verdict(err)
	}
	defer draft.Discard()
	for chunks := int32(0); ; chunks++ {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return chunks, commit(ctx, draft, chunks)
		}
		if err != nil {
			return chunks, err
		}
		if err := add(ctx, draft, request.GetChunk(), chunks); err != nil {
			return chunks, err
		}
		log.Debug("chunk", "index", chunks, "page", request.GetChunk().GetPage())
	}
}

// add refuses a gap or a repetition for good: gRPC delivers in order, so it is a
// mistake of the sender, which the same stream would only repeat. Chunks without an id
// come from a sender that knows only the described fields, and have no numbers.
func add(ctx context.Context, draft Draft, chunk *pb.DocumentChunk, expected int32) error {
	if chunk == nil {
		return status.Error(codes.InvalidArgument, "every message after the first must be a chunk")
	}
	if chunk.GetId() != "" && chunk.GetIndex() != expected {
		return status.Errorf(codes.FailedPrecondition,
			"chunk %d came where chunk %d was due", chunk.GetIndex(), expected)
	}
	return verdict(draft.Add(ctx, chunk))
}

// commit refuses a document without chunks, which would wipe out its earlier version;
// the processor opens no stream for one.
func commit(ctx context.Context, draft Draft, chunks int32) error {
	if chunks == 0 {
		return status.Error(codes.InvalidArgument, "the document has no chunks")
	}
	return verdict(draft.Commit(ctx))
}

// verdict turns a Store's error into the answer that the processor gets.
func verdict(err error) error {
	if err == nil {
		return nil
	}
	if _, hasStatus := status.FromError(err); hasStatus {
		return err
	}
	return status.Errorf(codes.Unavailable, "the document cannot be kept now: %v", err)
}

// logBroken tells a stream that the other side gave up from one that was refused here.
func (s *Server) logBroken(log *slog.Logger, stream incoming, chunks int32, err error) {
	event := "stream_rejected"
	if stream.Context().Err() != nil {
		event = "stream_cancelled"
	}
	log.Warn(event, "chunks", chunks, "error", err.Error())
}
