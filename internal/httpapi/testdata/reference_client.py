"""A stand-in for the Python client of the Usage API, for tests.

It calls the service and reads its answers as amieclient 0.6.1 does: the paths,
the headers, the names of the lists, and what it takes for granted in them. It
uses nothing but the standard library.

    reference_client.py BASE_URL SITE KEY send < message.json
    reference_client.py BASE_URL SITE KEY failed
    reference_client.py BASE_URL SITE KEY clear ID...
    reference_client.py BASE_URL SITE KEY status [FROM_TIME [TO_TIME]]
"""

import json
import sys
import urllib.error
import urllib.request
from urllib.parse import urlencode, urljoin

# What each kind of record is built from: required members, and those that must
# at least be there inside Attributes.
REQUIRED = {
    "Compute": ["Username", "LocalProjectID", "LocalRecordID", "Resource",
                "SubmitTime", "StartTime", "EndTime", "Charge"],
    "Storage": ["Username", "LocalProjectID", "LocalRecordID", "Resource",
                "CollectionTime", "Charge"],
    "Adjustment": ["Username", "LocalProjectID", "LocalRecordID", "Resource",
                   "StartTime", "Charge", "AdjustmentType"],
}


class Refused(Exception):
    """The service answered with a failing status."""


class UsageClient:
    def __init__(self, base_url, site, key):
        self.base_url = base_url if base_url.endswith("/") else base_url + "/"
        self.headers = {"XA-API-KEY": key, "XA-SITE": site}

    def _call(self, method, path, body=None, parameters=None):
        url = urljoin(self.base_url, path)
        if parameters:
            url += "?" + urlencode(parameters)
        headers = dict(self.headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as refused:
            status, text = refused.code, refused.read()
        answer = json.loads(text)
        if status > 200:
            raise Refused("%d: %s" % (status, answer["error"]))
        return answer

    def send(self, message):
        answer = self._call("POST", "usage/", body=message)
        return {"message": answer["Message"],
                "failed": [rejected_record(r) for r in answer["ValidationFailedRecords"]]}

    def failed(self):
        answer = self._call("GET", "usage/failed")
        return [failed_record(r) for r in answer["ValidationFailedRecords"]]

    def clear(self, ids):
        self._call("DELETE", "usage/failed/" + ",".join(ids))
        return "cleared"

    def status(self, from_time=None, to_time=None):
        parameters = {}
        if from_time is not None:
            parameters["FromTime"] = from_time
        if to_time is not None:
            parameters["ToTime"] = to_time
        rows = self._call("GET", "usage/status", parameters=parameters)
        if not isinstance(rows, list):
            raise TypeError("the status is no list")
        return [{
            "resource": row["Resource"],
            "loaded": row["LoadedRecordCount"],
            "failed": row["FailedJobCount"],
            "charge": row["TotalCharge"],
            "errors": [{"error": e["Error"], "records": [usage_record(r) for r in e["Records"]]}
                       for e in row["Errors"]],
        } for row in rows]


def usage_record(record):
    kind = record["UsageType"]
    for name in REQUIRED[kind]:
        record[name]
    if kind == "Compute":
        record["Attributes"].get("NodeCount")
    return "%s %s" % (kind, record["LocalRecordID"])


def failed_record(record):
    return {"record": usage_record(record), "error": record["Error"], "id": int(record["FailedRecordID"])}


def rejected_record(record):
    if record["UsageType"] == "Compute":
        record["Attributes"].get("NodeCount")
    return {"error": record["Error"], "local_record_id": record.get("LocalRecordID")}


def main(base_url, site, key, command, *arguments):
    client = UsageClient(base_url, site, key)
    try:
        if command == "send":
            result = client.send(json.load(sys.stdin))
        elif command == "clear":
            result = client.clear(arguments)
        elif command == "failed":
            result = client.failed()
        else:
            result = client.status(*arguments)
    except Refused as refused:
        result = {"refused": str(refused)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
