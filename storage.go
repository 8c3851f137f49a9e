package amieusage

import "time"

// A StorageRecord reports the use of storage at one time of collection
// (POST {base}/usage/). The fields from Username to Charge are required.
type StorageRecord struct {
	// Username is the local name of the user, as in AMIE.
	Username string
	// LocalProjectID is the site's project id, as the site gave it to AMIE.
	LocalProjectID string
	// LocalRecordID is the site's id of the record; with CollectionTime and
	// Resource it is the record's identity.
	LocalRecordID string
	// Resource is the resource's name as in AMIE.
	Resource string
	// CollectionTime is when the use was measured.
	CollectionTime time.Time
	// Charge is the amount of allocation units to deduct, usually gigabytes
	// stored; not negative.
	Charge Charge
	// BytesRead is the number of bytes read. On the wire it lies inside
	// Attributes, as all fields down to UserCopies do.
	BytesRead Count
	// BytesStored is the number of bytes stored.
	BytesStored Count
	// BytesWritten is the number of bytes written.
	BytesWritten Count
	// CollectionInterval is how often the use is measured, in days.
	CollectionInterval Count
	// FileCount is the number of files stored.
	FileCount Count
	// FilesRead is the number of files read.
	FilesRead Count
	// FilesWritten is the number of files written.
	FilesWritten Count
	// MediaType is the kind of storage: tape, disk, SSD.
	MediaType string
	// SystemCopies is the number of copies that the system keeps.
	SystemCopies Count
	// UserCopies is the number of copies that the user chose to keep.
	UserCopies Count
	// LocalReference is the site's own key; failed records bear it.
	LocalReference string

	Extra           Extra // unknown fields of the record
	ExtraAttributes Extra // unknown fields of its Attributes
}

var storageSchema = newSchema(
	fieldSpec{name: "Username", required: true, value: func(r Record) any { return &r.(*StorageRecord).Username }},
	fieldSpec{name: "LocalProjectID", required: true, value: func(r Record) any { return &r.(*StorageRecord).LocalProjectID }},
	fieldSpec{name: "LocalRecordID", required: true, value: func(r Record) any { return &r.(*StorageRecord).LocalRecordID }},
	fieldSpec{name: "Resource", required: true, value: func(r Record) any { return &r.(*StorageRecord).Resource }},
	fieldSpec{name: "CollectionTime", required: true, value: func(r Record) any { return &r.(*StorageRecord).CollectionTime }},
	fieldSpec{name: "Charge", required: true, value: func(r Record) any { return &r.(*StorageRecord).Charge }},
	fieldSpec{name: "BytesRead", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).BytesRead }},
	fieldSpec{name: "BytesStored", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).BytesStored }},
	fieldSpec{name: "BytesWritten", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).BytesWritten }},
	fieldSpec{name: "CollectionInterval", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).CollectionInterval }},
	fieldSpec{name: "FileCount", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).FileCount }},
	fieldSpec{name: "FilesRead", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).FilesRead }},
	fieldSpec{name: "FilesWritten", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).FilesWritten }},
	fieldSpec{name: "MediaType", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).MediaType }},
	fieldSpec{name: "SystemCopies", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).SystemCopies }},
	fieldSpec{name: "UserCopies", attribute: true, value: func(r Record) any { return &r.(*StorageRecord).UserCopies }},
	fieldSpec{name: "LocalReference", value: func(r Record) any { return &r.(*StorageRecord).LocalReference }},
)

// UsageType returns [Storage].
func (r *StorageRecord) UsageType() UsageType { return Storage }

// Common returns the fields that every kind of record has.
func (r *StorageRecord) Common() Common {
	return Common{r.Username, r.LocalProjectID, r.LocalRecordID, r.Resource, r.Charge, r.LocalReference}
}

// Identity returns the resource, the LocalRecordID and the CollectionTime.
func (r *StorageRecord) Identity() Identity {
	return Identity{r.Resource, Storage, r.LocalRecordID, keyTime(r.CollectionTime)}
}

// AllocationTime returns the CollectionTime.
func (r *StorageRecord) AllocationTime() time.Time { return r.CollectionTime }

// UsageTime returns the CollectionTime.
func (r *StorageRecord) UsageTime() time.Time { return r.CollectionTime }

// Validate returns a [*ValidationError] that names every bad field, or nil.
func (r *StorageRecord) Validate() error { return validateRecord(r, nil) }

// AppendJSON appends the record's JSON to dst.
func (r *StorageRecord) AppendJSON(dst []byte) []byte { return appendRecord(dst, r, false) }

// MarshalJSON returns the record as it goes over the wire.
func (r StorageRecord) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }

// UnmarshalJSON reads a record; the error is a [*ValidationError] where single
// fields cannot be read, and all others are set all the same.
func (r *StorageRecord) UnmarshalJSON(data []byte) error {
	*r = StorageRecord{}
	return decodeRecord(r, data)
}

// String returns the record in one readable line.
func (r *StorageRecord) String() string { return recordLine(r, r.CollectionTime) }

func (r *StorageRecord) schema() *recordSchema    { return storageSchema }
func (r *StorageRecord) extras() (*Extra, *Extra) { return &r.Extra, &r.ExtraAttributes }
