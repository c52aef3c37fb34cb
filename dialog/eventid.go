package dialog

// EventID returns the id of the event of type typ of a party; party is its [Event].Party.
// It does not return the ids of hold, resume and transfer, because a party may have
// several events of these types.
func EventID(party string, typ Type) string { return deriveID(party, string(typ)) }
