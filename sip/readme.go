package sip

import _ "embed"

// Readme is the guide for telephone engineers: how to put bellhop in front of a
// PBX, and what it changes on the wire. It is Markdown.
//
//go:embed README.md
var Readme string
