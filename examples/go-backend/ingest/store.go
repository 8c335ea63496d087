// Package ingest is the receiving half of a Go backend: the IngestService that the
// processor streams documents to, and the place where whole documents are kept.
package ingest

import (
	"context"

	"cognicore/pb"
)

// Store keeps documents. Put your database behind it: see the README.
//
// An error that carries a gRPC status is the processor's answer as it stands;
// InvalidArgument, FailedPrecondition and PermissionDenied end the task for good.
// Any other error becomes Unavailable, and the processor tries again.
type Store interface {
	// Begin opens a draft of one document. Several drafts, even of one document,
	// may be open at a time.
	Begin(ctx context.Context, document *pb.DocumentMetadata) (Draft, error)
}

// Draft is a document that is still arriving: nobody may see it yet.
type Draft interface {
	// Add appends the next chunk, in reading order.
	Add(ctx context.Context, chunk *pb.DocumentChunk) error

	// Commit makes the draft the document's only content, in one step: chunks of an
	// earlier version go.
	Commit(ctx context.Context) error

	// Discard drops the draft. After Commit it does nothing, so defer it.
	Discard()
}
