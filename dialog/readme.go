package dialog

import _ "embed"

// Readme is the guide to events: how calls are recognized, and what the status
// words mean. It is Markdown.
//
//go:embed README.md
var Readme string
