package dialog

// EventID returns the id of a party's event of a type; party is its [Event].Party. Hold,
// resume and transfer may occur more than once: it does not return their ids.
func EventID(party string, typ Type) string { return deriveID(party, string(typ)) }
