package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// pythonScript is a baseline of the kind that sites write: csv, dictionaries,
// json, and requests of 1,000 records, one after the other. It prints the jobs
// a second of one step, or of all of them, without the start of Python.
const pythonScript = `import csv, json, sys, time, urllib.request
from datetime import datetime, timezone
from decimal import Decimal

def jobs(name):
    with open(name, newline="") as f:
        yield from csv.DictReader(f, delimiter="|", quoting=csv.QUOTE_NONE)

def iso(seconds):
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat()

def record(job):
    tres = dict(t.split("=") for t in job["AllocTRES"].split(","))
    hours = Decimal(job["ElapsedRaw"]) / 3600
    return {
        "Username": job["User"], "LocalProjectID": job["Account"], "LocalRecordID": job["JobIDRaw"], "Resource": "rm",
        "SubmitTime": iso(job["Submit"]), "StartTime": iso(job["Start"]), "EndTime": iso(job["End"]),
        "Charge": str(round(int(tres["cpu"]) * hours, 6)),
        "Attributes": {"NodeCount": int(job["NNodes"]), "CpuCoreCount": int(job["NCPUS"]), "JobName": job["JobName"],
                       "Memory": job["ReqMem"], "Queue": job["Partition"]},
    }

def chunks(records):
    chunk = []
    for r in records:
        chunk.append(r)
        if len(chunk) == 1000:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

def message(chunk):
    return json.dumps({"UsageType": "Compute", "Records": chunk}).encode()

def post(body, url, key):
    request = urllib.request.Request(url + "/usage/", body, {"Content-Type": "application/json", "XA-SITE": "PSC", "XA-API-KEY": key})
    with urllib.request.urlopen(request) as answer:
        assert not json.load(answer)["FailedRecords"]

step, name = sys.argv[1:3]
if step == "encode":
    records = [record(j) for j in jobs(name)]
begin = time.perf_counter()
if step == "parse":
    n = sum(1 for _ in jobs(name))
elif step == "encode":
    n = sum(len(chunk) for chunk in chunks(records) if message(chunk))
else:
    n = 0
    for chunk in chunks(record(j) for j in jobs(name)):
        post(message(chunk), *sys.argv[3:5])
        n += len(chunk)
print(n / (time.perf_counter() - begin))
`

// python runs one step of the script on a dump.
func python(b *testing.B, dump []byte, step string, args ...string) {
	b.Helper()
	folder := b.TempDir()
	script, jobs := filepath.Join(folder, "usage.py"), filepath.Join(folder, "dump.psv")
	for name, data := range map[string][]byte{script: []byte(pythonScript), jobs: dump} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	var rates, memory float64
	for b.Loop() {
		command := exec.Command("python3", append([]string{script, step, jobs}, args...)...)
		var out bytes.Buffer
		command.Stdout, command.Stderr = &out, os.Stderr
		if err := command.Start(); err != nil {
			b.Fatal(err)
		}
		peak := watchMemory(command.Process)
		err := command.Wait()
		memory = max(memory, peak())
		if err != nil {
			b.Fatal(err)
		}
		rate, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
		if err != nil {
			b.Fatal(err)
		}
		rates += rate
	}
	b.ReportMetric(rates/float64(b.N), "/s")
	b.ReportMetric(memory, "python-MiB")
}
