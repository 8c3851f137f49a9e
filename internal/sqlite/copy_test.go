package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// copiedLedger makes a ledger with the sites PSC and NCSA, closes it, and
// returns its file.
func copiedLedger(t *testing.T, statements ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, err := OpenLedger(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Import(t.Context(), &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC"}, {Name: "NCSA"}}}); err != nil {
		t.Fatal(err)
	}
	err = l.db.write(t.Context(), "test", func(conn *sqlite.Conn) error {
		for _, statement := range statements {
			if err := sqlitex.ExecuteTransient(conn, statement, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func openCopy(t *testing.T, path string) *CopySource {
	t.Helper()
	s, err := OpenCopySource(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func wantError(t *testing.T, err error, code amieusage.Code, text string) {
	t.Helper()
	if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one of code %s with %q", err, code, text)
	}
}

func TestOpenCopySourceRefuses(t *testing.T) {
	folder := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := copiedLedger(t)
	l, err := OpenLedger(t.Context(), open)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]struct {
		code amieusage.Code
		text string
	}{
		filepath.Join(folder, "none"):         {amieusage.CodeNotFound, "there is no ledger"},
		folder:                                {amieusage.CodeInvalid, "is a folder"},
		write("empty", ""):                    {amieusage.CodeInvalid, "is empty"},
		write("text", strings.Repeat("x", 9)): {amieusage.CodeInvalid, "is not an amieusage ledger"},
		open:                                  {amieusage.CodeUnavailable, "stop the service"},
	} {
		_, err := OpenCopySource(t.Context(), path)
		wantError(t, err, want.code, want.text)
	}
	if _, err := os.Stat(filepath.Join(folder, "none")); err == nil {
		t.Error("a missing ledger was made")
	}
}

// TestCopySourceLocks shows that nobody opens a file that is being copied, and
// that it can be opened again afterwards.
func TestCopySourceLocks(t *testing.T) {
	path := copiedLedger(t)
	s, err := OpenCopySource(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetBusyTimeout(0)
	if _, err := number(conn, `SELECT count(*) FROM sites`); resultCode(err) != sqlite.ResultBusy {
		t.Errorf("another connection reads: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := number(conn, `SELECT count(*) FROM sites`); err != nil || n != 2 {
		t.Errorf("after the copy: %d sites, %v", n, err)
	}
}

// batchOf is a statement that adds a batch to a site.
func batchOf(id, site, loadedAt, damaged string) string {
	return `INSERT INTO batches (batch_id, site_id, key_id, usage_type, accepted_at, record_count, records, loaded_at, damaged)
		VALUES (` + id + `, ` + site + `, 1, 1, 5, 1, x'01', ` + loadedAt + `, ` + damaged + `)`
}

// TestCopySourceBatches numbers batches within their sites, and finds the place
// of loading.
func TestCopySourceBatches(t *testing.T) {
	for name, c := range map[string]struct {
		batches []string // of PSC: loaded_at and damaged
		place   int64
		damaged bool
	}{
		"none":                      {nil, 0, false},
		"all loaded":                {[]string{"7, 0", "7, 0"}, 2, false},
		"some queued":               {[]string{"7, 0", "NULL, 0", "NULL, 0"}, 1, false},
		"all queued":                {[]string{"NULL, 0", "NULL, 0"}, 0, false},
		"a damaged one, set aside":  {[]string{"7, 0", "NULL, 1", "7, 0", "NULL, 0"}, 3, false},
		"the last one is damaged":   {[]string{"7, 0", "NULL, 1"}, 2, false},
		"a damaged one, behind":     {[]string{"7, 0", "NULL, 0", "NULL, 1", "NULL, 0"}, 1, false},
		"a loaded one behind":       {[]string{"NULL, 0", "7, 0"}, 0, true},
		"a loaded one far behind":   {[]string{"7, 0", "NULL, 0", "NULL, 1", "7, 0"}, 0, true},
		"only a damaged one, alone": {[]string{"NULL, 1"}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var statements []string
			for i, b := range c.batches {
				id := func(n int) string { return string(rune('0'+n/10)) + string(rune('0'+n%10)) }
				loadedAt, damaged, _ := strings.Cut(b, ", ")
				statements = append(statements, batchOf(id(10+2*i), "1", loadedAt, damaged), batchOf(id(11+2*i), "2", "NULL", "0"))
			}
			s := openCopy(t, copiedLedger(t, statements...))
			site, err := s.Site(t.Context(), "PSC")
			if c.damaged {
				wantError(t, err, amieusage.CodeInternal, "loaded batch behind a queued one")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if site.LoadedBatch != c.place || site.Batches != int64(len(c.batches)) {
				t.Errorf("%d batches, loaded up to %d; want %d, %d", site.Batches, site.LoadedBatch, len(c.batches), c.place)
			}
			next := int64(2)
			for row, err := range s.Rows(t.Context(), site.ID, tableOf("batches"), []int64{1}) {
				if err != nil || row[0] != next {
					t.Fatalf("batch %v, %v; want %d", row, err, next)
				}
				next++
			}
			if want := max(int64(len(c.batches))+1, 2); next != want {
				t.Errorf("the last batch is %d", next-1)
			}
		})
	}
}

func tableOf(name string) *ledger.CopyTable {
	for _, t := range ledger.CopyTables {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// TestCopySourceDangling stops at a row that refers to what is not there.
func TestCopySourceDangling(t *testing.T) {
	s := openCopy(t, copiedLedger(t, `INSERT INTO revisions VALUES (1, 3, 1, 99, 0, 5, 5)`))
	for _, err := range s.Rows(t.Context(), 1, tableOf("revisions"), tableOf("revisions").First()) {
		wantError(t, err, amieusage.CodeInternal, "revisions [3 1] refers to a batch_id that is not there")
	}
	if _, err := s.Site(t.Context(), "TACC"); err == nil {
		t.Error("a site that is not there was found")
	}
}

func TestCopySourceCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := OpenCopySource(ctx, copiedLedger(t, batchOf("1", "1", "NULL", "0")))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	for _, err := range s.Rows(ctx, 1, tableOf("batches"), []int64{0}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	}
}

// TestCopyTables holds the tables of a copy against the schema, and the order
// in which large ones are read.
func TestCopyTables(t *testing.T) {
	s := openCopy(t, copiedLedger(t))
	copied := map[string]bool{"sites": true, "ledger": true}
	for _, table := range ledger.CopyTables {
		copied[table.Name] = true
		columns := map[string]ledger.CopyColumn{"site_id": {}}
		for _, c := range table.Columns {
			columns[c.Name] = c
		}
		err := sqlitex.Execute(s.conn, `SELECT name, "notnull" OR pk, type FROM pragma_table_info(?)`, &sqlitex.ExecOptions{
			Args: []any{table.Name},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				name := stmt.ColumnText(0)
				c, there := columns[name]
				delete(columns, name)
				if table.Name == "batches" && name == "loaded_at" {
					return nil // the place of loading says it
				}
				if !there || name != "site_id" && c.Null == stmt.ColumnBool(1) {
					t.Errorf("column %s of %s is copied: %v, as one that may be NULL: %v", name, table.Name, there, c.Null)
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(columns) > 0 {
			t.Errorf("%s has no columns %v", table.Name, columns)
		}
		if table.Name == "resources" || table.Name == "users" || table.Name == "projects" {
			continue // small ones are sorted
		}
		plan, _, err := s.conn.PrepareTransient("EXPLAIN QUERY PLAN " + copyQuery(table))
		if err != nil {
			t.Fatal(err)
		}
		for {
			more, err := plan.Step()
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				break
			}
			if step := plan.ColumnText(3); strings.Contains(step, "TEMP B-TREE") || strings.HasPrefix(step, "SCAN") {
				t.Errorf("%s: %s", table.Name, step)
			}
		}
		if err := plan.Finalize(); err != nil {
			t.Fatal(err)
		}
	}
	err := sqlitex.Execute(s.conn, `SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`,
		&sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
			if name := stmt.ColumnText(0); !copied[name] {
				t.Errorf("table %s is not copied", name)
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
}
