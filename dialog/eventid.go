package dialog

// EventID returns the id of the event of a type that a party has, by the
// [Event].Party of the party. Of the types that a party can have more than once,
// which are hold, resume and transfer, it names none.
func EventID(party string, typ Type) string { return deriveID(party, string(typ)) }
