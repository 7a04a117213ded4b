//! The trace that a request belongs to, for the access log: the field `traceparent` of W3C Trace Context.
//!
//! A guest gets the field as it was sent, and passes it on with its own requests if it takes part in the trace.

use http::HeaderMap;

/// The trace ID of `traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`, which is
/// `4bf92f3577b34da6a3ce929d0e0e4736`.
///
/// None if the field is absent, given twice or not valid (Trace Context, 3.2.2): what is logged has been checked.
pub(super) fn id(fields: &HeaderMap) -> Option<&str> {
    let mut given = fields.get_all("traceparent").iter();
    let (Some(field), None) = (given.next(), given.next()) else { return None };
    let mut parts = field.to_str().ok()?.split('-');
    let mut part = |digits: usize| {
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        parts.next().filter(|part| part.len() == digits && part.bytes().all(is_digit))
    };
    let (version, trace, parent, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let is_zero = |part: &str| part.bytes().all(|c| c == b'0');
    // Later versions may add parts.
    let is_valid = match version {
        "ff" => false,
        "00" => parts.next().is_none(),
        _ => true,
    };
    (is_valid && !is_zero(trace) && !is_zero(parent)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn id_of(values: &[&str]) -> Option<String> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append("traceparent", value.parse().unwrap());
        }
        id(&fields).map(str::to_owned)
    }

    #[test]
    fn the_trace_of_a_request_is_read() {
        for field in
            [format!("00-{TRACE}-00f067aa0ba902b7-01"), format!("01-{TRACE}-00f067aa0ba902b7-00-more")]
        {
            assert_eq!(id_of(&[&field]).as_deref(), Some(TRACE), "{field}");
        }
    }

    #[test]
    fn what_names_no_trace_is_not_logged() {
        let zero = "0".repeat(32);
        for field in [
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{zero}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}x-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7"),
        ] {
            assert_eq!(id_of(&[&field]), None, "{field}");
        }
        let field = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(id_of(&[&field, &field]), None);
    }
}
