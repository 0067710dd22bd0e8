//! `quest check`.

use std::process::Command;

use serde_json::Value;

#[test]
fn everything_is_right_on_the_cpu() {
    let output = Command::new(env!("CARGO_BIN_EXE_quest"))
        .args(["check", "--device", "flex", "--json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    assert!(output.status.success());
    assert_eq!(report["backend"], "flex");
    let checks = report["checks"].as_array().unwrap();
    for what in ["append", "page_scores", "top_pages", "top_k_attention"] {
        let mut of = checks.iter().filter(|check| check["what"] == what);
        assert!(of.all(|check| check["outcome"] == "ok"), "{report}");
    }
    assert!(report["copy_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["attention_copy_share"].as_f64().unwrap() > 0.0);
}
