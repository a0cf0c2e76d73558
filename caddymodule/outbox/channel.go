package outbox

// Channel says what a queue sends. Each has its own records in the store.
type Channel uint8

// The channels.
const (
	Mail Channel = iota
	Text         // text messages to phones
)

// String returns "mail" or "text".
func (c Channel) String() string {
	if c == Text {
		return "text"
	}
	return "mail"
}

// server names who takes it.
func (c Channel) server() string {
	if c == Text {
		return "text webhook"
	}
	return "mail server"
}

// bucket returns the name of a bucket of this channel.
func (c Channel) bucket(name string) string {
	if c == Text {
		return "text-" + name
	}
	return name
}
