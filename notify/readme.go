package notify

import _ "embed"

// Readme is the guide for developers of receivers: events, fields, dialects,
// signatures and retries. It is Markdown.
//
//go:embed README.md
var Readme string
