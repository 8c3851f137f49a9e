package httpapi

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/amieusage/amieusage"
)

// TLSFiles names the PEM files of a server's certificate.
type TLSFiles struct {
	Cert string // the certificate, and those between it and its authority
	Key  string
	// ClientCA holds the authorities of client certificates, without which
	// nobody is then let in; "": clients need none.
	ClientCA string
}

// TLSConfig returns the configuration of a server with these files. They are
// looked at again, at most once a second, when a client connects; where they
// have changed and cannot be used, what was there before stays in use and the
// reason is logged.
func TLSConfig(files TLSFiles, clock func() time.Time, logger *slog.Logger) (*tls.Config, error) {
	k := &keyPair{files: files, clock: clock, log: logger, checked: clock()}
	var err error
	if k.contents, err = files.read(); err != nil {
		return nil, err
	}
	if k.config, err = files.config(k.contents); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return k.current(), nil
		},
	}, nil
}

// A keyPair is what stands in the files, as far as it could be used.
type keyPair struct {
	files TLSFiles
	clock func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	checked  time.Time
	contents [][]byte // as they were last seen; nil: they could not be read
	config   *tls.Config
}

func (k *keyPair) current() *tls.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock()
	if now.Sub(k.checked) < time.Second {
		return k.config
	}
	k.checked = now
	contents, err := k.files.read()
	if slices.EqualFunc(contents, k.contents, bytes.Equal) {
		return k.config // or they still cannot be read, which was logged
	}
	k.contents = contents
	var config *tls.Config
	if err == nil {
		config, err = k.files.config(contents)
	}
	if err != nil {
		k.log.Error("the changed certificate cannot be used; the one before stays in use", "error", err)
		return k.config
	}
	k.config = config
	k.log.Info("certificate loaded", "file", k.files.Cert)
	return config
}

// read returns the contents of all files.
func (f TLSFiles) read() ([][]byte, error) {
	names := []string{f.Cert, f.Key}
	if f.ClientCA != "" {
		names = append(names, f.ClientCA)
	}
	contents := make([][]byte, len(names))
	for i, name := range names {
		var err error
		if contents[i], err = os.ReadFile(name); err != nil {
			return nil, &amieusage.Error{
				Code:    amieusage.CodeInvalid,
				Message: "cannot read a file of the TLS certificate",
				Hint:    "name PEM files that this program may read",
				Err:     err,
			}
		}
	}
	return contents, nil
}

// config builds the configuration from the files' contents.
func (f TLSFiles) config(contents [][]byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: "no certificate with its key in " + f.Cert + " and " + f.Key,
			Hint:    "both must be PEM, the server's own certificate first, and belong together",
			Err:     err,
		}
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	if f.ClientCA != "" {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(contents[2]) {
			return nil, &amieusage.Error{
				Code:    amieusage.CodeInvalid,
				Message: "no certificate in " + f.ClientCA,
				Hint:    "it must hold the authorities of client certificates in PEM",
			}
		}
	}
	return config, nil
}
