package httpapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key, a.pem, _ = sign(t, template, nil)
	return a
}

// sign returns a certificate by the authority (nil: by itself), and both in
// PEM.
func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey, []byte, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// issue returns a certificate for server or client with this serial number,
// and its key, in PEM.
func (a *authority) issue(t *testing.T, serial int64) (certPEM, keyPEM []byte) {
	t.Helper()
	_, _, certPEM, keyPEM = sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	return certPEM, keyPEM
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A tlsBench is a running TLS server, whose files and clock can be changed.
type tlsBench struct {
	*bench
	files   httpapi.TLSFiles
	seconds atomic.Int64 // since the start, by the server's clock
	url     string
}

func newTLSBench(t *testing.T, ca *authority, clientCA *authority) *tlsBench {
	t.Helper()
	folder := t.TempDir()
	b := &tlsBench{bench: newBench(t), files: httpapi.TLSFiles{Cert: filepath.Join(folder, "tls.crt"), Key: filepath.Join(folder, "tls.key")}}
	cert, key := ca.issue(t, 100)
	write(t, b.files.Cert, cert)
	write(t, b.files.Key, key)
	if clientCA != nil {
		b.files.ClientCA = filepath.Join(folder, "clients.crt")
		write(t, b.files.ClientCA, clientCA.pem)
	}
	clock := func() time.Time { return testTime.Add(time.Duration(b.seconds.Load()) * time.Second) }
	config, err := httpapi.TLSConfig(b.files, clock, b.logger)
	if err != nil {
		t.Fatal(err)
	}
	b.url = "https://" + b.run(t, func(c *httpapi.ServerConfig) { c.TLS = config }).address
	return b
}

// serial returns the serial number of the certificate that a new connection
// gets.
func (b *tlsBench) serial(t *testing.T, ca *authority) int64 {
	t.Helper()
	response, err := over(&tls.Config{RootCAs: ca.pool()}).Do(request(t, "GET", b.url+"/healthz", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 200 || response.ProtoMajor != 1 {
		t.Errorf("%s %s", response.Proto, response.Status)
	}
	return response.TLS.PeerCertificates[0].SerialNumber.Int64()
}

func TestTLSReload(t *testing.T) {
	ca := newAuthority(t, "test")
	b := newTLSBench(t, ca, nil)
	want := func(serial int64, when string) {
		t.Helper()
		if got := b.serial(t, ca); got != serial {
			t.Errorf("%s: certificate %d, want %d", when, got, serial)
		}
	}
	want(100, "at the start")
	cert, key := ca.issue(t, 200)
	write(t, b.files.Cert, cert)
	write(t, b.files.Key, key)
	want(100, "within the second")
	b.seconds.Add(1)
	want(200, "a second later")

	cert, key = ca.issue(t, 300)
	write(t, b.files.Cert, cert)
	b.seconds.Add(1)
	want(200, "with the new certificate and the old key")
	if !strings.Contains(b.log.String(), "the one before stays in use") {
		t.Errorf("not a word in the log:\n%s", b.log)
	}
	write(t, b.files.Key, key)
	b.seconds.Add(1)
	want(300, "with the new key too")

	if err := os.Remove(b.files.Key); err != nil {
		t.Fatal(err)
	}
	before := strings.Count(b.log.String(), "ERROR")
	for range 3 {
		b.seconds.Add(1)
		want(300, "without a key")
	}
	if got := strings.Count(b.log.String(), "ERROR") - before; got != 1 {
		t.Errorf("the missing key is logged %d times, want once", got)
	}
	write(t, b.files.Key, key)
	b.seconds.Add(1)
	want(300, "with the key back")
}

func TestClientCertificates(t *testing.T) {
	ca, clients, strangers := newAuthority(t, "test"), newAuthority(t, "clients"), newAuthority(t, "strangers")
	b := newTLSBench(t, ca, clients)
	certificate := func(a *authority) []tls.Certificate {
		cert, err := tls.X509KeyPair(a.issue(t, 7))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{cert}
	}
	known := over(&tls.Config{RootCAs: ca.pool(), Certificates: certificate(clients)})
	do(t, known, request(t, "GET", b.url+"/api/v1/usage/status", nil)).into(t, &[]struct{}{})
	for what, certificates := range map[string][]tls.Certificate{"none": nil, "a stranger's": certificate(strangers)} {
		config := &tls.Config{RootCAs: ca.pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if certificates == nil {
				return &tls.Certificate{}, nil
			}
			return &certificates[0], nil
		}}
		response, err := over(config).Do(request(t, "GET", b.url+"/healthz", nil))
		if err == nil {
			response.Body.Close()
			t.Errorf("let in with certificate: %s", what)
		}
	}
	// Other authorities count from the next look at the file on.
	write(t, b.files.ClientCA, strangers.pem)
	b.seconds.Add(1)
	if response, err := known.Do(request(t, "GET", b.url+"/healthz", nil)); err == nil {
		response.Body.Close()
		t.Error("let in with a certificate of the authority that was taken away")
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	ca := newAuthority(t, "test")
	b := newTLSBench(t, ca, nil)
	for version, accepted := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		client := over(&tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS10, MaxVersion: version})
		response, err := client.Do(request(t, "GET", b.url+"/healthz", nil))
		if err == nil {
			response.Body.Close()
		}
		if (err == nil) != accepted {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
	if response, err := http.Get(strings.Replace(b.url, "https", "http", 1) + "/healthz"); err == nil {
		response.Body.Close()
		if response.StatusCode == 200 {
			t.Error("served without TLS")
		}
	}
}

func TestTLSFilesThatCannotBeUsed(t *testing.T) {
	ca := newAuthority(t, "test")
	folder := t.TempDir()
	name := func(base string) string { return filepath.Join(folder, base) }
	cert, key := ca.issue(t, 1)
	_, otherKey := ca.issue(t, 2)
	for base, data := range map[string][]byte{"crt": cert, "key": key, "other.key": otherKey, "ca": ca.pem, "junk": []byte("junk")} {
		write(t, name(base), data)
	}
	b := newBench(t)
	clock := func() time.Time { return testTime }
	if _, err := httpapi.TLSConfig(httpapi.TLSFiles{Cert: name("crt"), Key: name("key"), ClientCA: name("ca")}, clock, b.logger); err != nil {
		t.Errorf("good files: %v", err)
	}
	for _, files := range []httpapi.TLSFiles{
		{Cert: name("missing"), Key: name("key")},
		{Cert: name("crt"), Key: ""},
		{Cert: name("crt"), Key: name("other.key")},
		{Cert: name("junk"), Key: name("key")},
		{Cert: name("crt"), Key: name("key"), ClientCA: name("junk")},
	} {
		_, err := httpapi.TLSConfig(files, clock, b.logger)
		if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeInvalid || e.Hint == "" {
			t.Errorf("%+v: %v", files, err)
		}
	}
}
