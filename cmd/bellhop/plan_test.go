package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pure are the packages that dialog may import: they work on text alone.
var pure = []string{"dialog/siptext", "dialog/body", "dialog/sdp"}

// storeUses are the packages of bellhop that the store may import: its settings, the events
// of the spool, and the losses that it reports.
var storeUses = []string{"cmd/bellhop/config", "dialog", "admin/ops"}

// TestRoomsImportInOrder checks which package may import which. Calls flow from sip to
// dialog to notify, and imports point at dialog.
func TestRoomsImportInOrder(t *testing.T) {
	// May names, for each room, the other rooms it may import.
	may := map[string][]string{
		"cmd":    {"sip", "dialog", "notify", "admin", "testdata"}, // of testdata its guide
		"sip":    {"dialog"},
		"notify": {"dialog"},
		"admin":  {"dialog", "notify"},
		"dialog": {},
	}
	seen := map[string]bool{}
	walk(t, func(file, room, pkg string) {
		seen[strings.Split(room, "/")[0]] = true
		test := strings.HasSuffix(file, "_test.go")
		top, _, _ := strings.Cut(room, "/")
		own, isOwn := strings.CutPrefix(pkg, "bellhop/")
		to, _, _ := strings.Cut(own, "/")
		allowed, known := may[top]
		switch {
		case !known:
			t.Errorf("%s is in no room of the plan", file)
		case isOwn && to == "cmd" && top != "cmd":
			t.Errorf("%s imports %s, which nobody may", file, pkg)
		case room == "cmd/bellhop/store" && isOwn && !slices.Contains(storeUses, own) && !test:
			t.Errorf("%s imports %s: the store may import %v", file, pkg, storeUses)
		case own == "cmd/bellhop/store" && room != "cmd/bellhop" && !test:
			t.Errorf("%s imports %s, which only the program may", file, pkg)
		case isOwn && to != top && !slices.Contains(allowed, to) && !test:
			t.Errorf("%s imports %s: %s may import %v", file, pkg, top, allowed)
		case strings.HasPrefix(pkg, "github.com/emiago/sipgo") && top != "sip":
			t.Errorf("%s imports %s, which only sip may", file, pkg)
		case room == "dialog/keep" && !isOwn && strings.Contains(pkg, ".") && !strings.HasPrefix(pkg, "github.com/nats-io/") && !test:
			t.Errorf("%s imports %s: dialog/keep is dialog and the store", file, pkg)
		case room == "dialog" && isOwn && !slices.Contains(pure, own) && !test:
			t.Errorf("%s imports %s: dialog is pure", file, pkg)
		case slices.Contains(pure, room) && (isOwn && own != "dialog/siptext" && own != room || !isOwn && strings.Contains(pkg, ".")):
			t.Errorf("%s imports %s: %s is the standard library and siptext alone", file, pkg, room)
		case room == "dialog" && !isOwn && strings.Contains(pkg, ".") && !strings.HasPrefix(pkg, "github.com/hashicorp/golang-lru/") && !test:
			t.Errorf("%s imports %s: dialog is the standard library and golang-lru alone", file, pkg)
		}
	})
	for room := range may {
		if !seen[room] {
			t.Errorf("there is no room %s", room)
		}
	}
}

// TestPurePackagesDoNoIO checks that package dialog, with the packages that it uses, and the
// scheduler of deliveries open nothing, start no goroutine and never read the clock.
func TestPurePackagesDoNoIO(t *testing.T) {
	forbidden := []string{"net", "net/http", "os", "os/exec", "syscall", "log", "log/slog", "context", "sync"}
	walk(t, func(file, room, pkg string) {
		if (room == "dialog" || room == "notify/schedule" || slices.Contains(pure, room)) && !strings.HasSuffix(file, "_test.go") && slices.Contains(forbidden, pkg) {
			t.Errorf("%s imports %s", file, pkg)
		}
	})
}

// walk visits every import of every file, with the folder of the file.
func walk(t *testing.T, visit func(file, room, pkg string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && strings.HasPrefix(name, ".") || name == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			pkg, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			visit(rel, filepath.ToSlash(filepath.Dir(rel)), pkg)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
