// Command amieusage reports what the users of a computing site consumed to an
// allocation service, through the AMIE Usage API; it is also that service.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	_ "time/tzdata" // time zones of schedulers, on machines that have none

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/failpoint"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/usageclient"
)

// Exit statuses, the same for every command.
const (
	exitOK          = 0
	exitRefused     = 1   // something was rejected, failed, held or incomplete, or went wrong
	exitUsage       = 2   // bad usage or configuration, or a dump that cannot be read
	exitUnreachable = 3   // the service was not reached; all is kept for the next run
	exitBusy        = 4   // another run is at work
	exitInterrupted = 130 // as by Ctrl-C; what was read is kept
)

// exitTable documents them.
const exitTable = `Exit status:
  0    all is well
  1    something was rejected, failed, is held or not complete: the output says what
  2    bad usage or configuration: a wrong flag, key or URL, a dump that cannot be read
  3    the service was not reached: all is kept for the next run
  4    another run is at work on the same site's file
  130  interrupted, as by Ctrl-C: what was read is kept`

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once: reading may wait for ever
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, clock: failpoint.Now}
	return p.run(ctx, os.Args[1:])
}

// A program is one run of amieusage, with all that it has of the world.
type program struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	clock  func() time.Time
	// running is true once a command's flags and arguments were found right.
	running bool
}

func (p *program) run(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !p.running {
		fmt.Fprintf(p.stderr, "amieusage: %s (see: %s --help)\n", printable(meant(cmd, args, err).Error()), cmd.CommandPath())
		return exitUsage
	}
	if !errors.Is(err, errTold) {
		fmt.Fprintf(p.stderr, "amieusage: %s\n", errorText(ctx, err))
	}
	return exitStatus(err)
}

// A statusError is an error with the exit status that it asks for.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// errTold ends a command whose summary has said already what went wrong.
var errTold = errors.New("some records were rejected or failed")

func usageError(format string, args ...any) error {
	return &statusError{exitUsage, fmt.Errorf(format, args...)}
}

// errorText returns the error's text, in the words of who runs the program.
func errorText(ctx context.Context, err error) string {
	if e, ok := errors.AsType[*usageclient.Error](err); ok {
		switch _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); {
		case untrusted:
			return withHint(err, e, "in site.yaml, ca_file names a file of the authorities that are trusted")
		case e.Code == amieusage.CodeUnauthorized || e.Code == amieusage.CodeForbidden:
			return withHint(err, e, "check site and api_key_file in site.yaml, or site_name and api_key in config.ini")
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return err.Error() + "; where the network is slow, in site.yaml: request_timeout, max_request_bytes"
	}
	return err.Error()
}

// withHint returns the error's text with a hint for who runs the program, in place
// of the one in e, which is for who writes one.
func withHint(err error, e *usageclient.Error, hint string) string {
	if e.Hint == "" {
		return err.Error() + "; " + hint
	}
	return strings.Replace(err.Error(), e.Hint, hint, 1)
}

// exitStatus returns the status that tells a script what kind of failure it
// was.
func exitStatus(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*dumpError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*siterules.TRESError](err); ok {
		return exitUsage
	}
	if notUsageAPI(err) {
		return exitUsage
	}
	if errors.Is(err, usageclient.ErrUnavailable) {
		return exitUnreachable
	}
	if e, ok := errors.AsType[*amieusage.Error](err); ok {
		switch e.Code {
		case amieusage.CodeUnauthorized, amieusage.CodeForbidden:
			return exitUsage
		}
	}
	return exitRefused
}

// notUsageAPI tells that what answers at the URL is no Usage API: it has none of
// its paths, or speaks no https.
func notUsageAPI(err error) bool {
	e, ok := errors.AsType[*usageclient.Error](err)
	return ok && (errors.Is(err, http.ErrSchemeMismatch) || e.Code == amieusage.CodeNotFound && e.Method != http.MethodDelete ||
		e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented)
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "amieusage",
		Short: "Report what a computing site's users consumed, through the AMIE Usage API",
		Long: `amieusage reports what the users of a computing site consumed to an allocation
service, through the AMIE Usage API. It is the site's agent, the service
itself, and a shell for the whole API.

A site administrator reports jobs, from a timer or by hand:

  amieusage report --config site.yaml
  amieusage report --config site.yaml --from-file dump.psv

An operator runs the service:

  amieusage serve --db ledger.db

` + exitTable,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddGroup(
		&cobra.Group{ID: "site", Title: "For a site:"},
		&cobra.Group{ID: "api", Title: "The rest of the Usage API:"},
		&cobra.Group{ID: "service", Title: "For the service:"},
	)
	root.AddCommand(
		p.reportCommand(), p.storageCommand(), p.relayCommand(),
		p.initCommand(), p.convertCommand(), p.collectCommand(), p.sendCommand(), p.confirmCommand(), p.recordsCommand(), p.skippedCommand(),
		p.explainCommand(), p.refundCommand(), p.adjustCommand(), p.reconcileCommand(), p.doctorCommand(), p.backupCommand(),
		p.statusCommand(), p.failedCommand(), p.loadedCommand(), p.summaryCommand(), p.validateCommand(),
		p.serveCommand(), p.adminCommand(),
		p.versionCommand(), p.manCommand(),
	)
	p.noteRunning(root)
	return root
}

// meant returns the error of a command that is there for those behind it, and was
// given a word that is none of them: with the one that was meant. Other errors it
// returns as they are.
func meant(cmd *cobra.Command, args []string, err error) error {
	if !cmd.HasSubCommands() || strings.Contains(cmd.Use, "JOB") { // or it has arguments of its own
		return err
	}
	words := slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return strings.HasPrefix(arg, "-") })
	depth := strings.Count(cmd.CommandPath(), " ")
	if len(words) <= depth {
		return err
	}
	var names []string
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	text := fmt.Sprintf("unknown command %q for %q", words[depth], cmd.CommandPath())
	if near := siteconfig.Nearest(words[depth], names); near != "" {
		text += "; did you mean " + cmd.CommandPath() + " " + near + "?"
	}
	return errors.New(text)
}

// noteRunning notes when a command begins its own work: an error before that
// is one of its flags or arguments.
func (p *program) noteRunning(cmd *cobra.Command) {
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			p.running = true
			return work(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		p.noteRunning(sub)
	}
}
