package main

import (
	_ "embed"

	"bellhop/admin"
	"bellhop/admin/page"
	"bellhop/cmd/bellhop/cli"
	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/sip"
	"bellhop/testdata"
)

// readme is the guide for operators: settings, the command line, failures, and
// several nodes. It is Markdown.
//
//go:embed README.md
var readme string

// topics lists the guides in the order in which a newcomer needs them.
var topics = []cli.Topic{
	{Name: "sip", Folder: "sip", Short: "Put bellhop in front of your PBX", Text: sip.Readme},
	{Name: "calls", Folder: "dialog", Short: "How calls are recognized, and what the status words mean", Text: dialog.Readme},
	{Name: "callbacks", Folder: "notify", Short: "Receive callbacks: events, fields, dialects, signatures, retries", Text: notify.Readme},
	{Name: "api", Folder: "admin", Short: "The HTTP API, tokens, live events, metrics and the page", Text: admin.Readme},
	{Name: "operations", Folder: "cmd/bellhop", Short: "Settings, the command line, failures, several nodes", Text: readme},
	{Name: "tests", Folder: "testdata", Short: "Call flows, load scenarios and tests with real PBXs", Text: testdata.Readme},
}

// guides returns the topics as the page shows them.
func guides() []page.Guide {
	all := make([]page.Guide, len(topics))
	for i, t := range topics {
		all[i] = page.Guide(t)
	}
	return all
}
