//! Options and subcommands.

use quest_burn_tests::checkpoint::CheckpointSpec;

use super::{Case, IDS, assert_refused};

#[test]
fn options() {
    for case in [
        Case {
            name: "budget smaller than a page",
            args: &["--ids", IDS, "--token-budget", "7"],
            expected: &["token budget: expected at least one page of 8 tokens, found 7"],
            ..Case::default()
        },
        Case {
            name: "misspelt option",
            args: &["--ids", IDS, "--tokn-budget", "64"],
            expected: &[
                "unexpected argument '--tokn-budget' found (a similar argument exists: \
                 '--token-budget')",
            ],
            ..Case::default()
        },
        Case {
            name: "page size that is no power of two",
            subcommand: "info",
            args: &["--page-size", "12"],
            expected: &["page size: expected a power of two from 8 to 128, found 12"],
            ..Case::default()
        },
        Case {
            name: "empty prefill chunk",
            args: &["--ids", IDS, "--prefill-chunk", "0"],
            expected: &["prefill chunk: expected at least 1 token, found 0"],
            ..Case::default()
        },
        Case {
            name: "prefill budget smaller than a page",
            args: &[
                "--ids",
                IDS,
                "--prefill-policy",
                "quest",
                "--prefill-budget",
                "7",
            ],
            expected: &["prefill budget: expected at least one page of 8 tokens, found 7"],
            ..Case::default()
        },
        Case {
            name: "prefill without a query that scores",
            args: &[
                "--ids",
                IDS,
                "--prefill-policy",
                "quest",
                "--prefill-rows",
                "0",
            ],
            expected: &["prefill rows: expected 1 to 1024 queries, found 0"],
            ..Case::default()
        },
        Case {
            name: "more pages always read than the prefill budget holds",
            args: &[
                "--ids",
                IDS,
                "--prefill-policy",
                "quest",
                "--prefill-budget",
                "16",
                "--prefill-sink-pages",
                "2",
            ],
            expected: &[
                "pages that prompts always read: expected at most the prefill budget of 2 pages, found 2 \
                 first and 1 last pages",
            ],
            ..Case::default()
        },
        Case {
            name: "prefill budget of a dense prefill",
            args: &["--ids", IDS, "--prefill-budget", "64"],
            expected: &["--prefill-budget: expected --prefill-policy quest with it, found dense"],
            ..Case::default()
        },
        Case {
            name: "rates of a dense prefill",
            args: &["--ids", IDS, "--prefill-rates", "0.3"],
            expected: &["--prefill-rates: expected --prefill-policy lazy with it, found dense"],
            ..Case::default()
        },
        Case {
            name: "budget of a lazy prefill",
            args: &[
                "--ids",
                IDS,
                "--prefill-policy",
                "lazy",
                "--prefill-budget",
                "64",
            ],
            expected: &["--prefill-budget: expected --prefill-policy quest with it, found lazy"],
            ..Case::default()
        },
        Case {
            name: "prompt that leaves all of its tokens behind",
            args: &[
                "--ids",
                IDS,
                "--prefill-policy",
                "lazy",
                "--prefill-rates",
                "1",
            ],
            expected: &["lazy prompts: expected a share from 0 to below 1 that leaves, found 1"],
            ..Case::default()
        },
        Case {
            name: "rate that is no number",
            args: &[
                "--ids",
                IDS,
                "--prefill-policy",
                "lazy",
                "--prefill-rates",
                "0.3,half",
            ],
            expected: &["'--prefill-rates <R,..>': expected a number from 0 to 1000, found `half`"],
            ..Case::default()
        },
        Case {
            name: "layers that a model does not have",
            args: &[
                "--ids",
                IDS,
                "--prefill-policy",
                "lazy",
                "--prefill-layers",
                "1,2",
            ],
            expected: &[
                "lazy prompts: expected ascending layers from 1 to 1 after which tokens leave, found 1, 2",
            ],
            ..Case::default()
        },
        Case {
            name: "lazy prompts that are verified",
            args: &["--ids", IDS, "--prefill-policy", "lazy", "--lossless"],
            expected: &[
                "--prefill-policy: expected dense or quest with --lossless, which needs all tokens in all layers, \
                 found lazy",
            ],
            ..Case::default()
        },
        Case {
            name: "lazy prompt that is scored",
            subcommand: "perplexity",
            args: &["--ids", IDS, "--prefill-policy", "lazy"],
            expected: &[
                "--prefill-policy: expected dense or quest with a text that is scored as a prompt (no --prefill \
                 N), which needs all tokens in all layers, found lazy",
            ],
            ..Case::default()
        },
        Case {
            name: "digests that no head dim of the model fits",
            spec: CheckpointSpec {
                head_dim: 24,
                ..Case::default().spec
            },
            args: &["--ids", IDS, "--digests", "int8"],
            expected: &["expected a head dim that is a multiple of 16, found 24"],
            ..Case::default()
        },
        Case {
            name: "negative temperature",
            args: &["--ids", IDS, "--temperature", "-1"],
            expected: &["temperature: expected a finite number of at least 0, found -1"],
            ..Case::default()
        },
        Case {
            name: "negative seed",
            args: &["--ids", IDS, "--temperature", "1", "--seed", "-1"],
            expected: &["invalid value '-1' for '--seed <N>'"],
            ..Case::default()
        },
        Case {
            name: "negative number of new tokens",
            args: &["--ids", IDS, "--max-new-tokens", "-5"],
            expected: &["invalid value '-5' for '--max-new-tokens <N>'"],
            ..Case::default()
        },
        Case {
            name: "negative length of a list",
            subcommand: "passkey",
            args: &["--lengths", "-16"],
            expected: &[
                "'--lengths <N,..>': expected a number of tokens",
                "found `-16`",
            ],
            ..Case::default()
        },
        Case {
            name: "filter without temperature",
            args: &["--ids", IDS, "--top-k", "4"],
            expected: &["--temperature <T>"],
            ..Case::default()
        },
        Case {
            name: "drafts of no token",
            args: &[
                "--ids",
                IDS,
                "--max-new-tokens",
                "4",
                "--lossless",
                "--draft-tokens",
                "0",
            ],
            expected: &["expected at least 1, found 0"],
            ..Case::default()
        },
        Case {
            name: "drafts that nothing verifies",
            args: &["--ids", IDS, "--draft-tokens", "3"],
            expected: &["--lossless"],
            ..Case::default()
        },
        Case {
            name: "a group rule that ranks as another one",
            args: &["--ids", IDS, "--policy", "quest:group=sum"],
            expected: &["options of quest: group: expected max or mean, found `sum`"],
            ..Case::default()
        },
        Case {
            name: "plot in a folder that is not there",
            subcommand: "perplexity",
            args: &[
                "--ids",
                IDS,
                "--policies",
                "quest",
                "--plot",
                "{dir}/no/a.svg",
            ],
            expected: &["no/a.svg: expected a file that can be written: No such file"],
            ..Case::default()
        },
        Case {
            name: "results in a folder that is not there",
            subcommand: "perplexity",
            args: &[
                "--ids",
                IDS,
                "--policies",
                "quest",
                "--resume",
                "{dir}/no/a.jsonl",
            ],
            expected: &["no/a.jsonl: expected a file that can be written: No such file"],
            ..Case::default()
        },
        Case {
            name: "folder in place of a plot",
            subcommand: "perplexity",
            args: &["--ids", IDS, "--policies", "quest", "--plot", "{dir}"],
            expected: &["expected a file that can be written: Is a directory"],
            ..Case::default()
        },
        Case {
            name: "more new tokens than a number holds",
            args: &["--ids", IDS, "--max-new-tokens", "18446744073709551615"],
            expected: &["at most 64 tokens, found a prompt of 8 and 18446744073709551615"],
            ..Case::default()
        },
        Case {
            name: "top-p beyond 1",
            args: &["--ids", IDS, "--temperature", "1", "--top-p", "1.5"],
            expected: &["top-p", "found 1.5"],
            ..Case::default()
        },
        Case {
            name: "unknown device",
            args: &["--ids", IDS, "--device", "tpu"],
            expected: &[
                "invalid value 'tpu' for '--device <DEVICE>'",
                "flex",
                "cuda",
            ],
            ..Case::default()
        },
        Case {
            name: "unknown option",
            args: &["--ids", IDS, "--quantize"],
            expected: &["unexpected argument '--quantize'"],
            ..Case::default()
        },
        Case {
            name: "unknown subcommand",
            subcommand: "train",
            args: &[],
            expected: &["unrecognized subcommand 'train'"],
            ..Case::default()
        },
    ] {
        assert_refused(&case);
    }
}
