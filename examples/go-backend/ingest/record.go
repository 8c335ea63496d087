package ingest

import "cognicore/pb"

// record is one line of a document's file: every field of DocumentChunk under its
// proto name, and the document's id.
type record struct {
	DocID       string    `json:"doc_id"`
	ID          string    `json:"id"`
	Index       int32     `json:"index"`
	Chapter     string    `json:"chapter"`
	SectionPath []string  `json:"section_path"`
	Page        int32     `json:"page"`
	PageEnd     int32     `json:"page_end"`
	Kind        string    `json:"kind"`
	TokenCount  int32     `json:"token_count"`
	Content     string    `json:"content"`
	Boxes       []box     `json:"boxes"`
	Embeddings  []float32 `json:"embeddings,omitempty"` // absent without a provider
}

type box struct {
	Page int32   `json:"page"`
	X0   float32 `json:"x0"`
	Y0   float32 `json:"y0"`
	X1   float32 `json:"x1"`
	Y1   float32 `json:"y1"`
}

func newRecord(docID string, chunk *pb.DocumentChunk) record {
	boxes := make([]box, 0, len(chunk.GetBoxes()))
	for _, b := range chunk.GetBoxes() {
		boxes = append(boxes, box{b.GetPage(), b.GetX0(), b.GetY0(), b.GetX1(), b.GetY1()})
	}
	return record{
		DocID:       docID,
		ID:          chunk.GetId(),
		Index:       chunk.GetIndex(),
		Chapter:     chunk.GetChapter(),
		SectionPath: append([]string{}, chunk.GetSectionPath()...),
		Page:        chunk.GetPage(),
		PageEnd:     chunk.GetPageEnd(),
		Kind:        chunk.GetKind().String(),
		TokenCount:  chunk.GetTokenCount(),
		Content:     chunk.GetContent(),
		Boxes:       boxes,
		Embeddings:  chunk.GetEmbeddings(),
	}
}
