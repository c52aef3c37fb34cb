// Package testdata holds the files that tests read. It has no code but its guide.
package testdata

import _ "embed"

// Readme is the guide to tests: call flows, load scenarios, and calls through
// real PBXs. It is Markdown.
//
//go:embed README.md
var Readme string
