//! What results carry, and how an interrupted run resumes.

mod journal;
mod run_info;

pub use journal::{Journal, JournalError};
pub use run_info::{Build, ModelInfo, ModelInfoError, RunInfo, sha256};

/// A number as it comes back from a file of results: rounded to nine decimals, so that a run that
/// was cut ends with the same digits as one that was not.
pub fn round_trip(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_numbers_come_back_from_json_to_the_last_bit() {
        for i in 1..2000 {
            let value = round_trip(1234.5 / f64::from(i));
            let text = serde_json::to_string(&value).unwrap();
            let back = serde_json::from_str::<f64>(&text).unwrap();
            assert_eq!(back.to_bits(), value.to_bits(), "{text}");
        }
    }
}
