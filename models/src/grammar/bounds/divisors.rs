use serde_json::Value;

use super::Beyond;

/// Digits of all divisors, added up.
const MAX_DIVISORS: f64 = 20_000.0;

/// Refuses divisors that have too many remainders together, each of which is a state.
pub(super) fn check(schema: &Value) -> Result<(), Beyond> {
    fn sum(schema: &Value) -> f64 {
        match schema {
            Value::Array(parts) => parts.iter().map(sum).sum(),
            Value::Object(fields) => {
                let own = match fields.get("multipleOf") {
                    Some(Value::Number(divisor)) => digits(&divisor.to_string()),
                    _ => 0.0,
                };
                own + fields.values().map(sum).sum::<f64>()
            }
            _ => 0.0,
        }
    }
    /// The digits of 0.025 are 25.
    fn digits(number: &str) -> f64 {
        let number = number.split(['e', 'E']).next().unwrap_or(number);
        let digits = number
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>();
        digits.trim_end_matches('0').parse().unwrap_or(0.0)
    }
    match sum(schema) {
        sum if sum > MAX_DIVISORS => Err(Beyond::at_most(
            MAX_DIVISORS,
            "as the sum of all multipleOf",
            sum,
        )),
        _ => Ok(()),
    }
}
