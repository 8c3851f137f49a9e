package storage_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/storage"
)

const gpfsHeader = "mmrepquota::HEADER:version:reserved:reserved:filesystemName:quotaType:id:name:blockUsage:blockQuota:blockLimit:blockInDoubt:blockGrace:filesUsage:filesQuota:filesLimit:filesInDoubt:filesGrace:remarks:quota:defQuota:fid:filesetname:\n"

// row prints a row shortly.
func row(r *storage.Row) string {
	s := ""
	for _, f := range []struct{ name, text string }{{"fs", r.FileSystem}, {"fileset", r.Fileset}, {"project", r.ProjectID}, {"path", r.Path}, {"group", r.Group}, {"pi", r.PI}, {"user", r.User}} {
		if f.text != "" {
			s += f.name + "=" + f.text + " "
		}
	}
	return s + fmt.Sprintf("%d bytes %d files", r.Bytes, r.Files)
}

func TestRead(t *testing.T) {
	columns := &storage.CSV{Path: "2", User: "4", Files: "5", Bytes: "6", Unit: 1024}
	named := &storage.CSV{ProjectID: "project", Bytes: "Used", Unit: 1_000_000}
	for _, test := range []struct {
		what   string
		text   string
		csv    *storage.CSV
		format storage.Format
		from   storage.From
		want   []string
	}{
		{"GPFS", gpfsHeader + "mmrepquota::0:1:::scr%2Fatch:FILESET:408:proj%3A1:341467872:2147483648:2147483648:0:none:6286:2000000:2000000:0:none:e:on:off:::\n" +
			"mmrepquota::0:1:::scratch:USR:20821:alice:858080:31457280:36700160:2229360:none:35939:0:0:0:none:i:on:off:2:home:\n" +
			"mmrepquota::0:1:::scratch:GRP:20821:phys:1:31457280:36700160:2229360:none:2:0:0:0:none:i:on:off:2::\n", nil, storage.GPFS, storage.FromFileset,
			[]string{"fs=scr/atch fileset=proj:1 349663100928 bytes 6286 files", "fs=scratch fileset=home user=alice 878673920 bytes 35939 files", "fs=scratch group=phys 1024 bytes 2 files"}},
		{"GPFS with another order of columns", "mmrepquota::HEADER:version:reserved:reserved:quotaType:filesystemName:id:filesUsage:name:blockUsage:x:\n*** Report for FILESET quotas on home\nmmrepquota::0:1:::FILESET:home:1:5:p:2:7:\n",
			nil, storage.GPFS, storage.FromFileset, []string{"fs=home fileset=p 2048 bytes 5 files"}},
		{"Lustre", "Disk quotas for prj 110255 (pid 110255):\n     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n/lustre/proj 1225350212*       0       0       -  714982       0       0       -\n" +
			"pid 110255 is using default block quota setting\nDisk quotas for prj 0 (pid 0):\n     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n/lustre/proj 5 0 0 - 7 0 0 -\n",
			nil, storage.Lustre, storage.FromProjectID, []string{"fs=/lustre/proj project=110255 1254758617088 bytes 714982 files"}},
		{"Lustre, newer, wrapped, of a user", "Disk quotas for usr alice (uid 1001):\n      Filesystem    used  bquota  blimit  bgrace   files  iquota  ilimit  igrace\n/lustre/a-very-long-name\n                  12       0       0       -       3       0       0       -\n",
			nil, storage.Lustre, storage.FromUser, []string{"fs=/lustre/a-very-long-name user=alice 12288 bytes 3 files"}},
		{"XDMoD", `[{"resource":"r","mountpoint":"/home","user":"alice","pi":"bob","dt":"2026-10-01T05:00:00Z","file_count":3,"logical_usage":9007199254740993,"physical_usage":1}]`,
			nil, storage.XDMoD, storage.FromPI, []string{"fs=/home pi=bob user=alice 9007199254740993 bytes 3 files"}},
		{"repquota", "*** Report for user quotas on device /dev/sda1\nUser,BlockStatus,FileStatus,BlockUsed,BlockSoftLimit,BlockHardLimit,BlockGrace,FileUsed,FileSoftLimit,FileHardLimit,FileGrace\nalice,ok,ok,2000000,1000000,2000000,,100,0,0,\n#1005,ok,ok,500,0,0,,5,0,0,\n",
			nil, storage.Repquota, storage.FromUser, []string{"user=alice 2048000000 bytes 100 files", "user=1005 512000 bytes 5 files"}},
		{"repquota of projects, newer", "Project,SpaceStatus,FileStatus,SpaceUsed,SpaceSoftLimit,SpaceHardLimit,SpaceGrace,FileUsed,FileSoftLimit,FileHardLimit,FileGrace\n#42,ok,ok,1,0,0,,5,0,0,\n#0,ok,ok,9,0,0,,5,0,0,\n",
			nil, storage.Repquota, storage.FromProjectID, []string{"project=42 1024 bytes 5 files"}},
		{"ZFS users", "POSIX User\talice\t1048576\tnone\t12\tnone\nPOSIX User\t1005\t0\t500\t-\tnone\n", nil, storage.ZFS, storage.FromUser, []string{"user=alice 1048576 bytes 12 files", "user=1005 0 bytes 0 files"}},
		{"ZFS groups", "POSIX Group\tphys\t1048576\tnone\n", nil, storage.ZFS, storage.FromGroup, []string{"group=phys 1048576 bytes 0 files"}},
		{"ZFS projects", "7\t1048576\tnone\t12\tnone\n0\t5\tnone\t1\tnone\n", nil, storage.ZFS, storage.FromProjectID, []string{"project=7 1048576 bytes 12 files"}},
		{"XFS", "#42          1024          0          0     00 [--------]         12          0          0     00 [--------]\n#0 9 0 0 00 [--------] 1 0 0 00 [--------]\n#7 3 0 0 00 [7 days] 4 0 0 00 [--------]\n",
			nil, storage.XFS, storage.FromProjectID, []string{"project=42 1048576 bytes 12 files", "project=7 3072 bytes 4 files"}},
		{"BeeGFS", "name,id,size,hard,files,hard\nalice,1001,53687091200,unlimited,7042,0\n", nil, storage.BeeGFS, storage.FromUser, []string{"user=alice 53687091200 bytes 7042 files"}},
		{"a table by numbers", "date,path,label,user,files,kib\n2026-10-01,/p/chem,x,alice,3,10\n2026-10-01,/p/chem,x,total,4,12\n", columns, storage.CSVTable, storage.FromPath,
			[]string{"path=/p/chem user=alice 10240 bytes 3 files", "path=/p/chem 12288 bytes 4 files"}},
		{"a table by names", "used,PROJECT\n5,42\n", named, storage.CSVTable, storage.FromProjectID, []string{"project=42 5000000 bytes 0 files"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			report, err := storage.Read(strings.NewReader(test.text), "r", "", test.csv)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range report.Rows {
				got = append(got, row(&report.Rows[i]))
			}
			if diff := cmp.Diff(test.want, got); diff != "" || report.Format != test.format || report.From != test.from {
				t.Errorf("%s from %s (-want +got):\n%s", report.Format, report.From, diff)
			}
			if _, err := storage.Read(strings.NewReader(strings.TrimRight(test.text, "\n}]")), "r", test.format, test.csv); err == nil {
				t.Error("what has lost its end is taken for whole")
			}
		})
	}
}

func TestReadSuspect(t *testing.T) {
	lustre := "Disk quotas for prj 1 (pid 1):\n     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n"
	for _, test := range []struct{ what, text, problem string }{
		{"nothing", "", "empty"},
		{"no program's", "hello\n", "not known which program"},
		{"GPFS cut between fields", gpfsHeader + "mmrepquota::0:1:::scratch:FILESET:408:p:34\n", "cut off"},
		{"GPFS without a header", "mmrepquota:x:HEADER:\nmmrepquota::0:1:::scratch:FILESET\n", "is this mmrepquota -Y?"},
		{"GPFS with another size", gpfsHeader + "mmrepquota::0:1:::scratch:FILESET:408:p:3.4T:0:0:0:none:1:0:0:0:none:e:on:off:::\n", "no whole number"},
		{"Lustre in brackets", lustre + "/l [12] 0 0 - 3 0 0 -\n", "a server did not answer"},
		{"Lustre's files in brackets", lustre + "/l 12 0 0 - [3] 0 0 -\n", "a server did not answer"},
		{"Lustre with -h", lustre + "/l 15.4T 0 0 - 3 0 0 -\n", "export them without"},
		{"Lustre without figures", lustre, "no figures"},
		{"XDMoD cut", `[{"resource":"r","mountpoint":"/h","user":"a","pi":"b","dt":"2026-10-01T05:00:00Z","file_count":3,"logical_usage":9}`, "cut off"},
		{"XDMoD without files", `[{"mountpoint":"/h","user":"a","pi":"b","dt":"2026-10-01T05:00:00Z","logical_usage":9}]`, "file_count"},
		{"BeeGFS 8", "{\"name\":\"alice\",\"space\":\"190.02GiB/∞\"}\n", "rounds the sizes"},
		{"repquota cut", "User,BlockStatus,FileStatus,BlockUsed,FileUsed\nalice,ok\n", "cut off"},
		{"negative", "POSIX User\talice\t-5\tnone\n", "no whole number"},
		{"too large", "POSIX User\talice\t99999999999999999999\tnone\n", "no whole number"},
	} {
		t.Run(test.what, func(t *testing.T) {
			report, err := storage.Read(strings.NewReader(test.text), "r", "", nil)
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("%+v, %v", report, err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add(gpfsHeader+"mmrepquota::0:1:::s:FILESET:408:p:34:0:0:0:none:1:0:0:0:none:e:on:off:::\n", "")
	f.Add("Disk quotas for prj 1 (pid 1):\n     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n/l 12 0 0 - 3 0 0 -\n", "")
	f.Add("POSIX User\talice\t5\tnone\n", "zfs")
	f.Add("#42 1 0 0 00 [--------] 12 0 0 00 [--------]\n", "xfs")
	f.Add("name,id,size,hard,files,hard\nalice,1,5,unlimited,7,0\n", "beegfs")
	f.Add("a,b,c\n1,2,3\n", "csv")
	f.Fuzz(func(t *testing.T, text, format string) {
		report, err := storage.Read(strings.NewReader(text), "r", storage.Format(format), &storage.CSV{User: "1", Bytes: "2", Unit: 1})
		if err != nil {
			return
		}
		for i := range report.Rows {
			if r := &report.Rows[i]; r.Bytes < 0 || r.Files < 0 {
				t.Errorf("%+v", r)
			}
		}
	})
}
