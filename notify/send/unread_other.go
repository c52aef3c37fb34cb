//go:build !linux

package send

import "net"

// hasUnreadBytes returns false, because only Linux can be asked for unread bytes of a
// kept connection. Elsewhere they are skipped before the next response.
func hasUnreadBytes(net.Conn) bool { return false }
