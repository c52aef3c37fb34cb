package store

import (
	"bytes"
	"encoding/base32"
	"encoding/json"
	"strings"
)

// An olderStream is a stream of version 1 of the store. Its name has no prefix
// bellhop_.
type olderStream struct {
	name, newName       string
	subject, newSubject string
	bucket, ttls        bool // it is a bucket; its messages may have a TTL of their own

	// wrote reports whether a message may be from bellhop. key is the subject of the
	// message or, in a bucket, its key. If value is nil, the message deletes the key.
	wrote func(key string, value []byte) bool
}

// olderStreams are all streams of version 1. The bucket keys is sealed first and never
// deleted, because older builds open it before anything else, and fail to start if it
// is sealed.
var olderStreams = []olderStream{
	olderBucket("keys", false, func(key string, value []byte) bool { return key == "sip" && (value == nil || len(value) == keySize) }),
	olderLog("EVENTS", "event.>", func(subject string, value []byte) bool {
		var e struct{ ID, Call, Type string }
		return strings.Count(subject, ".") == 3 && json.Unmarshal(value, &e) == nil && e.ID != "" && e.Type != ""
	}),
	olderLog("OUTBOX", "delivery.>", func(subject string, value []byte) bool {
		switch {
		case subject == "delivery.cursor":
			return len(value) > 0 && len(bytes.Trim(value, "0123456789")) == 0
		case len(value) == 0:
			return strings.Count(subject, ".") >= 2
		}
		return hasJSONField(value, "lane") || hasJSONField(value, "after")
	}),
	olderLog("ATTEMPTS", "attempt.>", func(subject string, value []byte) bool {
		return strings.Count(subject, ".") <= 2 && len(value) > 0
	}),
	olderLog("AUDIT", "audit", func(_ string, value []byte) bool { return hasJSONField(value, "did") && hasJSONField(value, "by") }),
	olderBucket("SUBSCRIPTIONS", false, func(_ string, value []byte) bool { return value == nil || hasJSONField(value, "dialect") }),
	olderBucket("EXTENSIONS", false, func(key string, value []byte) bool {
		return value == nil || key == strings.TrimRight(base32.StdEncoding.EncodeToString(value), "=") || key == "-" && len(value) == 0
	}),
	olderBucket("STANDINGS", false, func(key string, value []byte) bool {
		return !strings.Contains(key, ".") && (value == nil || hasJSONField(value, "failing") || hasJSONField(value, "paused") || hasJSONField(value, "why") || string(value) == "{}")
	}),
	olderBucket("LEASES", false, func(key string, _ []byte) bool { return key == "deliver" }),
	olderBucket("CALLS", true, func(key string, _ []byte) bool {
		return strings.HasPrefix(key, "call.") || strings.HasPrefix(key, "mark.")
	}),
	olderBucket("TOKENS", false, func(_ string, value []byte) bool { return value == nil || hasJSONField(value, "hash") }),
}

// keyStream is the name of the bucket keys, the first of olderStreams.
const keyStream = "KV_keys"

// olderBucket returns a bucket of version 1.
func olderBucket(name string, ttls bool, wrote func(string, []byte) bool) olderStream {
	now := "bellhop_" + strings.ToLower(name)
	return olderStream{"KV_" + name, "KV_" + now, "$KV." + name + ".>", "$KV." + now + ".>", true, ttls, wrote}
}

// olderLog returns a stream of version 1 that is not a bucket.
func olderLog(name, subject string, wrote func(string, []byte) bool) olderStream {
	return olderStream{name, "bellhop_" + strings.ToLower(name), subject, "bellhop." + subject, false, false, wrote}
}

// hasJSONField reports whether a JSON object has a field.
func hasJSONField(object []byte, name string) bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(object, &fields) == nil && fields[name] != nil
}

// currentName returns the new name of a stream of version 1, or the name of any other
// stream unchanged.
func currentName(stream string) string {
	for _, f := range olderStreams {
		if f.name == stream {
			return f.newName
		}
	}
	return stream
}
