package postgres

import "testing"

func TestNamesOfDatabases(t *testing.T) {
	for db, want := range map[string]struct {
		is, secret bool
		plain      string
	}{
		"postgres://u@db1,db2/ledger":                           {true, false, "postgres://u@db1,db2/ledger"},
		"POSTGRES://u:s3cret@db1/ledger?sslmode=verify-full":    {true, true, "postgres://u@db1/ledger?sslmode=verify-full"},
		"PostgreSQL://db1/ledger?password=s3cret&user=u":        {true, true, "postgresql://db1/ledger?user=u"},
		"host=db1 password=s3cret dbname=ledger":                {true, true, "host=db1 dbname=ledger"},
		"postgres://u@db1:5432,db2:5433/ledger?sslmode=require": {true, false, "postgres://u@db1:5432,db2:5433/ledger?sslmode=require"},
		"postgres://u:s@db1:5432,[::1]:5433/ledger":             {true, true, "postgres://u@db1:5432,[::1]:5433/ledger"},
		"postgres://u:s%40x@/ledger?host=/run/postgresql":       {true, true, "postgres://u@/ledger?host=/run/postgresql"},
		"postgres:///ledger?password=s":                         {true, true, "postgres:///ledger"},
		"HOST=db1 dbname=ledger":                                {true, false, "HOST=db1 dbname=ledger"},
		`password='it''s' host=db1`:                             {true, true, `'s' host=db1`}, // which libpq refuses as well
		`dbname=l password = 'with space \' and quote' host=h`:  {true, true, "dbname=l host=h"},
		"ledger.db":          {false, false, ""},
		"dir=x/ledger.db":    {false, false, ""},
		"./host=x":           {false, false, ""},
		"mysql://u@h/ledger": {false, false, ""},
	} {
		if IsURL(db) != want.is {
			t.Errorf("%q: a database of PostgreSQL: %t", db, !want.is)
		}
		if !want.is {
			continue
		}
		if plain, had := WithoutPassword(db); plain != want.plain || had != want.secret {
			t.Errorf("%q: %q, %t", db, plain, had)
		}
	}
}
