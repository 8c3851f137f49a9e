// Package usageclient is the client for the AMIE Usage API: it sends usage
// records to an allocation service and asks what became of them.
//
//	client, err := usageclient.New("PSC", key)
//	...
//	result, err := client.Send(ctx, records...)
//	for _, o := range result.Refused() {
//		log.Printf("%s: %v", o.Record, o.Err)
//	}
//
// # Calls
//
// On the left what they are in amieclient, the reference client in Python:
//
//	UsageClient(site, key, url)   New, WithBaseURL
//	send(usage_packets)           Send, SendMessage, SendStream          POST   {base}/usage/
//	status(from_time, to_time)    Status                                 GET    {base}/usage/status
//	get_failed_records()          ListFailed, AllFailed                  GET    {base}/usage/failed
//	clear_failed_records(list)    ClearFailed, ClearFailedIDs            DELETE {base}/usage/failed/{ids}
//	(none)                        ListLoaded, AllLoaded                  GET    {base}/usage/loaded
//	summary()                     Summary                                GET    {base}/usage/summary
//	ComputeUsageRecord(...)       amieusage.ComputeRecord{...}
//	StorageUsageRecord(...)       amieusage.StorageRecord{...}
//	AdjustmentUsageRecord(...)    amieusage.AdjustmentRecord{...}
//	UsageMessage(records)         amieusage.NewMessage
//	UsageResponse                 amieusage.SendResponse, in SendResult.Responses
//	UsageStatus                   amieusage.Status
//	FailedUsageRecord             amieusage.FailedRecord
//	x.pretty_print()              amieusage.Indent(x)
//
// The list of loaded records is not in the published documentation but on the
// live service; Summary is an extension that package amieusage defines.
//
// Without [WithBaseURL] a client speaks to the production service,
// [amieusage.DefaultURL].
//
// # What becomes of a record
//
// Every record that is sent ends in one of three states, whatever happens on
// the way, and however many requests it takes:
//
//   - [Accepted]: it is on the service's stable storage and will be loaded;
//     loading may still fail, which Status and ListFailed tell.
//   - [Refused]: sending it again unchanged is of no use. The outcome says
//     why: the service's own words, a [*amieusage.ValidationError] where the
//     record was not even sent, or an [*amieusage.Error] with
//     [amieusage.CodeTooLarge] where it fits no request.
//   - [Unsent]: it is not known to be accepted. Send it again: that is safe,
//     because a record of a known identity overwrites the earlier one.
//
// A send returns an error if and only if a record is unsent (or, for a stream,
// the caller's own functions failed); the result is there even then. Revisions
// of one record are best sent again in their order: the last accepted wins.
//
// # Failure
//
// An attempt ends after a time ([WithTimeout]). It is made again, with growing
// and jittered delays, on connection errors, time-outs and the statuses 408,
// 429, 502, 503, 504, 511 and 520 to 530, and not before the service's
// Retry-After ([WithRetry]). Every call is idempotent, so that this doubles
// nothing. Other statuses are final.
//
// An answer counts only as that of its own request. Each attempt bears an
// X-Request-Id, with which the service of this project answers; an answer with
// the id of another attempt, as a proxy may repeat one, is not taken. Nor is an
// answer to a send that acknowledges another number of records than were sent.
//
// Errors are of type [*Error]; [ErrUnavailable] tells those that pass by
// themselves from those that somebody must see to. [amieusage.Code] is reached
// by errors.As with an [*amieusage.Error].
//
// # The API key
//
// The key travels in a header, and nowhere else: it is in no log line, no error
// and no printed client. A redirect to another origin (scheme, host or port) is
// an error, and so is a plain http:// address beyond this machine unless
// [WithInsecureHTTP] is given.
package usageclient
