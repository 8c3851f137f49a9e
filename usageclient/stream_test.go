package usageclient

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/amieusage/amieusage"
)

// streamOf yields the records, and counts those that were taken.
func streamOf(records []amieusage.Record, taken *int, err error) iter.Seq2[amieusage.Record, error] {
	return func(yield func(amieusage.Record, error) bool) {
		for _, r := range records {
			*taken++
			if !yield(r, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

func TestFailedRequests(t *testing.T) {
	at := func(f func(http.ResponseWriter), requests ...int) func(int, http.ResponseWriter) bool {
		return func(n int, w http.ResponseWriter) bool {
			if slices.Contains(requests, n) {
				f(w)
				return true
			}
			return false
		}
	}
	html := func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>log in</html>")) }
	hangUp := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	for _, test := range []struct {
		name     string
		before   func(int, http.ResponseWriter) bool
		want     string // states of 6 requests of 2 records each
		requests int
		status   int // of the error
	}{
		{"none", nil, "aaaaaaaaaaaa", 6, 0},
		{"refused as a whole", at(problem(400, "no", "invalid"), 2), "aauuaaaaaaaa", 6, 400},
		{"the service trips", at(problem(500, "oops", "internal"), 2, 5), "aauuaaaauuaa", 6, 500},
		{"three in a row", at(problem(422, "no", ""), 2, 3, 4, 5, 6, 7, 8, 9, 10), "aauuuuuuuuuu", 10, 422},
		{"two and two in a row", at(problem(400, "no", ""), 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13), "uuuuaauuuuaa", 14, 400},
		{"taken in parts", at(problem(400, "no", ""), 2), "aaaaaaaaaaaa", 8, 0},
		{"taken in parts, twice", at(problem(500, "oops", ""), 2, 5), "aaaaaaaaaaaa", 10, 0},
		{"the second one is taken", at(problem(422, "no", ""), 2, 3), "aauaaaaaaaaa", 8, 422},
		{"neither is taken", at(problem(422, "no", ""), 2, 3, 4), "aauuaaaaaaaa", 8, 422},
		{"wrong key", at(problem(401, "no", ""), 3), "aaaauuuuuuuu", 3, 401},
		{"no such call", at(problem(404, "no", ""), 1), "uuuuuuuuuuuu", 1, 404},
		{"stopping", at(problem(503, "no", ""), 4, 5, 6, 7, 8, 9), "aaaaaauuuuuu", 9, 503},
		{"stopping for a while", at(problem(503, "no", ""), 4, 5, 6, 7, 8), "aaaaaaaaaaaa", 11, 0},
		{"answer lost once", at(hangUp, 2), "aaaaaaaaaaaa", 7, 0},
		{"login page", at(html, 2), "aauuuuuuuuuu", 2, 200},
		{"first error is the one returned", at(problem(400, "no", ""), 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13), "uuaauuuuuuuu", 13, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			check := func(s *service, result *SendResult, err error) {
				t.Helper()
				if states(result) != test.want || s.requests != test.requests || (err == nil) != !strings.Contains(test.want, "u") {
					t.Fatalf("%s after %d requests, error %v", states(result), s.requests, err)
				}
				if e, ok := errors.AsType[*Error](err); ok && e.Status != test.status {
					t.Errorf("error %v", err)
				}
				for i, o := range result.Outcomes {
					if o.Index != i || (o.Err == nil) != (o.State == Accepted) {
						t.Errorf("outcome %d is %+v", i, o)
					}
				}
			}
			records := computes(12)
			s := &service{t: t, before: test.before}
			result, err := serve(t, s, WithMaxRequestRecords(2)).Send(context.Background(), records...)
			check(s, result, err)

			// A stream does the same, but takes no more records than it needs.
			s, result = &service{t: t, before: test.before}, new(SendResult)
			taken := 0
			err = serve(t, s, WithMaxRequestRecords(2)).SendStream(context.Background(), streamOf(records, &taken, nil),
				func(part *SendResult) error {
					result.Outcomes = append(result.Outcomes, part.Outcomes...)
					return nil
				})
			if taken != len(result.Outcomes) {
				t.Errorf("%d records were taken and %d reported", taken, len(result.Outcomes))
			}
			for i := taken; i < len(records); i++ {
				result.Outcomes = append(result.Outcomes, Outcome{Index: i, Err: err})
			}
			check(s, result, err)
		})
	}
}

func TestStreamCallbacks(t *testing.T) {
	errSource, errReport := errors.New("disk is gone"), errors.New("outbox is gone")
	t.Run("the sequence fails", func(t *testing.T) {
		s := &service{t: t}
		reported, taken := 0, 0
		err := serve(t, s, WithMaxRequestRecords(2)).SendStream(context.Background(), streamOf(computes(5), &taken, errSource),
			func(part *SendResult) error {
				reported += len(part.Accepted())
				return nil
			})
		if !errors.Is(err, errSource) || !strings.Contains(err.Error(), "after 5 others") || reported != 5 || len(s.accepted) != 5 {
			t.Errorf("%d reported, %d accepted, error %v", reported, len(s.accepted), err)
		}
	})
	t.Run("report fails", func(t *testing.T) {
		for failAt := 1; failAt <= 3; failAt++ {
			s := &service{t: t, maxRecords: 3} // so that requests are split
			calls, reported, taken := 0, 0, 0
			err := serve(t, s, WithMaxRequestRecords(6)).SendStream(context.Background(), streamOf(computes(50), &taken, nil),
				func(part *SendResult) error {
					reported += len(part.Outcomes)
					if calls++; calls == failAt {
						return errReport
					}
					return nil
				})
			if err != errReport || calls != failAt || len(s.accepted) != reported {
				t.Errorf("%d calls, %d reported, %d accepted, error %v", calls, reported, len(s.accepted), err)
			}
		}
	})
	t.Run("report fails at the end", func(t *testing.T) {
		taken := 0
		err := serve(t, &service{t: t}).SendStream(context.Background(), streamOf(computes(5), &taken, errSource),
			func(*SendResult) error { return errReport })
		if err != errReport {
			t.Errorf("error %v", err)
		}
	})
	t.Run("only invalid records", func(t *testing.T) {
		s := &service{t: t}
		calls, reported, taken := 0, 0, 0
		err := serve(t, s, WithMaxRequestRecords(10)).SendStream(context.Background(), streamOf(make([]amieusage.Record, 95), &taken, nil),
			func(part *SendResult) error {
				calls++
				reported += len(part.Refused())
				return nil
			})
		if err != nil || calls != 10 || reported != 95 || s.requests != 0 {
			t.Errorf("%d calls, %d reported, error %v", calls, reported, err)
		}
	})
}

func TestStreamHoldsOneRequestOfEachKind(t *testing.T) {
	s := &service{t: t}
	taken, reported := 0, 0
	records := func(yield func(amieusage.Record, error) bool) {
		for taken < 30_000 {
			r := amieusage.Record(compute(taken))
			if taken%3 == 0 {
				r = storage(taken)
			}
			taken++
			if !yield(r, nil) {
				return
			}
		}
	}
	err := serve(t, s, WithMaxRequestBytes(100_000)).SendStream(context.Background(), records, func(part *SendResult) error {
		if held := taken - reported; held > 2*100_000/270 {
			t.Errorf("%d records were held", held)
		}
		reported += len(part.Outcomes)
		s.accepted = nil
		return nil
	})
	if err != nil || reported != 30_000 {
		t.Errorf("%d reported, error %v", reported, err)
	}
}
