package admin

import _ "embed"

// Readme is the guide to the HTTP API and the page. It is Markdown.
//
//go:embed README.md
var Readme string
