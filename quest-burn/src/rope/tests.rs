use super::*;
use burn::module::Module;
use burn::tensor::{Device, Distribution, TensorData, Tolerance};

/// What WGSL asks of a sine within one turn (SwiftShader is off by 2e-4 there, and by 1.5e-3 far
/// beyond it).
const SINE_ERROR: f32 = 1.0 / 2048.0;

fn default_rope(head_dim: usize, device: &Device) -> Rope {
    RopeConfig::new().init(head_dim, device)
}

fn positions<const N: usize>(values: [i64; N], device: &Device) -> Tensor<2, Int> {
    Tensor::<1, Int>::from_data(values, device).unsqueeze()
}

fn scaled(theta: f64, scaling: RopeScaling) -> RopeConfig {
    RopeConfig::new().with_theta(theta).with_scaling(scaling)
}

fn llama3(factor: f64, original_max_positions: usize) -> RopeScaling {
    RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions,
    }
}

fn yarn(factor: f64, original_max_positions: usize, truncate: bool) -> RopeScaling {
    RopeScaling::Yarn {
        factor,
        original_max_positions,
        attention_factor: None,
        mscale: None,
        mscale_all_dim: None,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate,
    }
}

/// Compares frequencies at some pairs of channels with values computed in double precision.
fn assert_frequencies(config: &RopeConfig, head_dim: usize, expected: &[(usize, f64)]) {
    let found = config.inverse_frequencies(head_dim);
    assert_eq!(found.len(), head_dim / 2);
    for &(pair, expected) in expected {
        let error = (f64::from(found[pair]) / expected - 1.0).abs();
        assert!(
            error < 1e-6,
            "pair {pair}: expected {expected}, found {}",
            found[pair]
        );
    }
}

#[test]
fn default_frequencies_are_powers_of_theta() {
    let expected = [(0, 1.0), (1, 0.1), (2, 0.01), (3, 0.001)];
    assert_frequencies(&RopeConfig::new(), 8, &expected);
}

#[test]
fn linear_scaling_divides_every_frequency() {
    let config = scaled(10_000.0, RopeScaling::Linear { factor: 8.0 });
    let expected = [(0, 0.125), (1, 0.0125), (2, 0.00125), (3, 0.000125)];
    assert_frequencies(&config, 8, &expected);
}

#[test]
fn llama3_scaling_keeps_short_blends_middle_and_stretches_long_wavelengths() {
    let short = scaled(500_000.0, llama3(8.0, 128));
    let expected = [
        (0, 1.0),
        (1, 0.19112647581653072),
        (2, 0.004700753866357992),
        (3, 0.0009115830921521386),
        (7, 1.2891731721515574e-6),
    ];
    assert_frequencies(&short, 16, &expected);

    let llama_3_1 = scaled(500_000.0, llama3(8.0, 8192));
    let expected = [
        (28, 0.0032114459947525913),
        (29, 0.002166570763503359),
        (30, 0.0013718935677611381),
        (33, 0.00031269375038406517),
        (35, 9.556212353964683e-5),
        (63, 3.068925988914511e-7),
    ];
    assert_frequencies(&llama_3_1, 128, &expected);
}

#[test]
fn yarn_scaling_ramps_from_kept_to_stretched_channels() {
    let short = scaled(10_000.0, yarn(4.0, 64, true));
    let expected = [
        (0, 1.0),
        (1, 0.23717082451262847),
        (2, 0.05),
        (3, 0.00790569415042095),
        (4, 0.0025),
    ];
    assert_frequencies(&short, 16, &expected);

    let fractional = scaled(10_000.0, yarn(4.0, 64, false));
    let expected = [
        (0, 1.0),
        (1, 0.19858352015369318),
        (2, 0.02559524589192421),
        (4, 0.0025),
    ];
    assert_frequencies(&fractional, 16, &expected);

    let yarn_llama_2 = scaled(10_000.0, yarn(32.0, 4096, true));
    let expected = [
        (20, 0.056234132519034905),
        (21, 0.04688233024733851),
        (30, 0.008366564754678549),
        (45, 0.00010549977402090264),
        (46, 4.167254475510388e-5),
        (63, 3.608693702154557e-6),
    ];
    assert_frequencies(&yarn_llama_2, 128, &expected);
}

#[test]
fn yarn_attention_factor_is_given_or_derived() {
    let factor_of = |factor, given, part, all| {
        let mut scaling = yarn(factor, 64, true);
        let RopeScaling::Yarn {
            attention_factor,
            mscale,
            mscale_all_dim,
            ..
        } = &mut scaling
        else {
            unreachable!()
        };
        (*attention_factor, *mscale, *mscale_all_dim) = (given, part, all);
        scaling.attention_factor()
    };
    let close = |found: f64, expected: f64| {
        assert!(
            (found - expected).abs() < 1e-12,
            "expected {expected}, found {found}"
        );
    };
    close(factor_of(32.0, None, None, None), 1.3465735902799727);
    close(factor_of(32.0, Some(0.5), Some(1.0), Some(1.0)), 0.5);
    close(
        factor_of(40.0, None, Some(0.707), Some(1.0)),
        0.9210423553163399,
    );
    close(factor_of(4.0, None, Some(0.707), None), 1.138629436111989);
    close(
        factor_of(4.0, None, Some(0.707), Some(0.0)),
        1.138629436111989,
    );
    close(factor_of(1.0, None, None, None), 1.0);
    close(llama3(8.0, 64).attention_factor(), 1.0);
}

#[test]
fn channels_are_rotated_in_half_split_pairs() {
    let device = Device::default();
    let x = Tensor::<4>::from_data([[[[1.0, 2.0, 3.0, 4.0]]]], &device);
    let rotated = default_rope(4, &device).forward(x, positions([2], &device));
    // Channels (0, 2) turn by 2 radians, (1, 3) by 2 / 100.
    let (s, c) = 2f32.sin_cos();
    let (slow_s, slow_c) = 0.02f32.sin_cos();
    let expected = [
        c - 3.0 * s,
        2.0 * slow_c - 4.0 * slow_s,
        3.0 * c + s,
        4.0 * slow_c + 2.0 * slow_s,
    ];
    rotated.into_data().assert_approx_eq::<f32>(
        &TensorData::from([[[expected]]]),
        Tolerance::absolute(8.0 * SINE_ERROR),
    );
}

#[test]
fn rotation_preserves_the_norm_up_to_the_attention_factor() {
    let device = Device::default();
    let x = Tensor::<4>::random([2, 3, 5, 16], Distribution::Default, &device);
    let at = Tensor::<2, Int>::from_data([[0, 1, 77, 4096, 131_071], [5, 4, 3, 2, 1]], &device);
    let norms = |x: Tensor<4>| x.square().sum_dim(3).sqrt();
    for (scaling, factor) in [
        (RopeScaling::Default, 1.0),
        (yarn(32.0, 4096, true), 1.3465735902799727),
    ] {
        let rotated = scaled(10_000.0, scaling)
            .init(16, &device)
            .forward(x.clone(), at.clone());
        norms(rotated).into_data().assert_approx_eq::<f32>(
            &(norms(x.clone()) * factor).into_data(),
            Tolerance::relative(2.0 * SINE_ERROR),
        );
    }
}

#[test]
fn products_depend_on_the_distance_only() {
    let device = Device::default();
    let rope = default_rope(16, &device);
    let channels = Tensor::<1, Int>::arange(0..16, &device)
        .float()
        .reshape([1, 1, 1, 16]);
    let (query, key) = (channels.clone() / 8.0 - 1.0, channels / -16.0 + 1.0);
    let product = |query_at: i64, key_at: i64| {
        let query = rope.forward(query.clone(), positions([query_at], &device));
        let key = rope.forward(key.clone(), positions([key_at], &device));
        (query * key).sum().into_scalar::<f32>()
    };
    let expected = product(7, 0);
    for start in [1, 100, 3000] {
        let found = product(start + 7, start);
        assert!(
            (found - expected).abs() < 16.0 * SINE_ERROR,
            "{start}: expected {expected}, found {found}"
        );
    }
    assert!((product(8, 0) - expected).abs() > 32.0 * SINE_ERROR);
}

#[test]
fn angles_of_a_long_context_keep_their_sine() {
    let device = Device::default();
    let rope = scaled(500_000.0, RopeScaling::Default).init(128, &device);
    let at = [0, 1, 3, 4, 100, 32_767, 131_071, 1_048_575];
    let Rotations { cos, sin, .. } = rope.rotations(positions(at, &device));
    let frequencies = RopeConfig::new()
        .with_theta(500_000.0)
        .inverse_frequencies(128);
    // The angle itself is rounded to f32, as in the reference; its sine is not off any further.
    let expected = |of: fn(f64) -> f64| {
        let angles = at
            .iter()
            .flat_map(|p| frequencies.iter().map(move |f| *p as f32 * f));
        let values: Vec<f32> = angles.map(|angle| of(f64::from(angle)) as f32).collect();
        TensorData::new(values, [1, 1, at.len(), 64])
    };
    let tolerance = || Tolerance::absolute(SINE_ERROR);
    cos.into_data()
        .assert_approx_eq::<f32>(&expected(f64::cos), tolerance());
    sin.into_data()
        .assert_approx_eq::<f32>(&expected(f64::sin), tolerance());
}

#[test]
fn dtype_of_the_input_is_kept() {
    let device = Device::default();
    let x = Tensor::<4>::random([1, 2, 3, 8], Distribution::Default, (&device, DType::F16));
    let rotated = default_rope(8, &device).forward(x, positions([0, 1, 2], &device));
    assert_eq!(rotated.dtype(), DType::F16);
}

#[test]
fn gradients_flow_through_the_rotation() {
    let plain = Device::default();
    let device = plain.clone().autodiff();
    let x = Tensor::<4>::random([1, 1, 2, 4], Distribution::Default, &device).require_grad();
    let at = positions([0, 9], &device);
    let rope = default_rope(4, &device);
    let weights = Tensor::<4>::random([1, 1, 2, 4], Distribution::Default, &device);
    let loss = (rope.forward(x.clone(), at) * weights.clone()).sum();
    let gradient = x.grad(&loss.backward()).expect("x takes part in the loss");
    // The rotation is orthogonal: its transpose is the rotation back.
    default_rope(4, &plain)
        .forward(gradient, positions([0, 9], &plain))
        .into_data()
        .assert_approx_eq::<f32>(
            &weights.inner().into_data(),
            Tolerance::absolute(4.0 * SINE_ERROR),
        );
}

#[test]
fn frequencies_are_not_parameters() {
    let rope = default_rope(64, &Device::default());
    assert_eq!(rope.num_params(), 0);
    assert!(
        rope.collect_devices(Vec::new())
            .contains(&Device::default())
    );
}

#[test]
fn values_out_of_range_are_refused() {
    let message = |config: RopeConfig, head_dim| config.validate(head_dim).unwrap_err().to_string();
    let of = |scaling| message(scaled(10_000.0, scaling), 8);
    assert_eq!(
        message(RopeConfig::new(), 7),
        "RoPE: expected an even head dim of at least 2, found 7"
    );
    assert!(message(RopeConfig::new(), 0).contains("found 0"));
    for theta in [1.0, -5.0, f64::NAN, f64::INFINITY] {
        assert!(message(RopeConfig::new().with_theta(theta), 8).contains("theta"));
    }
    assert_eq!(
        of(RopeScaling::Linear { factor: 0.5 }),
        "RoPE scaling: expected factor as a finite number of at least 1, found 0.5"
    );
    assert!(of(RopeScaling::Linear { factor: f64::NAN }).contains("factor"));
    assert!(of(llama3(8.0, 0)).contains("original_max_positions"));
    assert!(of(yarn(0.0, 4096, true)).contains("factor"));
    assert_eq!(
        of(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        }),
        "RoPE scaling: expected high_freq_factor above low_freq_factor 4, found 4"
    );
    let mut crossed = yarn(4.0, 4096, true);
    if let RopeScaling::Yarn { beta_fast, .. } = &mut crossed {
        *beta_fast = 0.5;
    }
    assert_eq!(
        of(crossed),
        "RoPE scaling: expected beta_fast of at least beta_slow 1, found 0.5"
    );
    for scaling in [
        RopeScaling::Default,
        llama3(1.0, 8192),
        yarn(1.0, 4096, false),
    ] {
        scaled(10_000.0, scaling).validate(8).unwrap();
    }
}

#[test]
#[should_panic(expected = "expected an even head dim of at least 2, found 5")]
fn init_refuses_an_odd_head_dim() {
    default_rope(5, &Device::default());
}

#[test]
#[should_panic(expected = "axis 3 expected 8, got 6")]
fn head_dim_must_match() {
    let device = Device::default();
    let x = Tensor::<4>::zeros([1, 1, 1, 6], &device);
    let _ = default_rope(8, &device).forward(x, positions([0], &device));
}

#[test]
fn display() {
    assert_eq!(
        default_rope(8, &Device::default()).to_string(),
        "Rope {head_dim: 8, attention_factor: 1}"
    );
}
