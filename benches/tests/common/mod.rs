//! Running what benchmarks, the `program` of the test, and reading its lines. The tests of
//! `quest bench` include this file too.

use std::process::Output;

use serde_json::Value;

const QUICK: [&str; 8] = [
    "--rounds",
    "3",
    "--round-ms",
    "1",
    "--memory-limit",
    "1GB",
    "--json",
    "--minutes",
];

pub(crate) fn run(arguments: &[&str]) -> Output {
    crate::program().args(arguments).output().unwrap()
}

/// A run in a hurry, of so many minutes at most.
pub(crate) fn run_quickly(arguments: &[&str], minutes: &str) -> Output {
    run(&[arguments, &QUICK, &[minutes]].concat())
}

/// The lines of a run that succeeds, in a hurry.
#[track_caller]
pub(crate) fn lines(arguments: &[&str]) -> Vec<Value> {
    let output = run_quickly(arguments, "10");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let parsed = stdout.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().unwrap()
}

/// Exit code 2 and one line on stderr that ends with what was found.
#[track_caller]
pub(crate) fn assert_refused(arguments: &[&str], expected: &str) {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
}

#[track_caller]
pub(crate) fn assert_times_are_ordered(line: &Value) {
    let of = |key: &str| {
        line[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{key}: {line}"))
    };
    let times = ["min_us", "q1_us", "median_us", "q3_us", "max_us"].map(of);
    assert!(times[0] > 0.0 && times.is_sorted(), "{line}");
}
