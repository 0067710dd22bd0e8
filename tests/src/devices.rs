//! The devices that a test runs on.

use std::{env, fmt};

use burn::tensor::Device;

/// A device and the name that it is asked for by.
#[derive(Clone, Debug)]
pub struct TestDevice {
    /// `flex`, `ndarray`, `wgpu`, `vulkan` or `cuda`.
    pub name: String,
    /// The device itself.
    pub device: Device,
}

impl TestDevice {
    /// How far results may be off where tensor operations in f32 play a part, given how far they may
    /// be elsewhere: Burn multiplies f32 matrices in TF32 on CUDA, which has 10 bits of fraction.
    pub fn tolerance(&self, elsewhere: f64) -> f64 {
        match self.name.as_str() {
            "cuda" => elsewhere.max(2e-3),
            _ => elsewhere,
        }
    }

    /// As [`Self::tolerance`] where sums cancel.
    pub fn tolerance_of_sums(&self, elsewhere: f64) -> f64 {
        match self.name.as_str() {
            "cuda" => elsewhere.max(3e-2),
            _ => elsewhere,
        }
    }
}

impl fmt::Display for TestDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The CPU backends that are compiled in, or those that the environment variable
/// `QUEST_TEST_DEVICES` names (`flex,ndarray,wgpu,vulkan,cuda`).
///
/// # Panics
///
/// When a named device is unknown or not compiled in, or when none is left.
pub fn devices() -> Vec<TestDevice> {
    let names = match env::var("QUEST_TEST_DEVICES") {
        Ok(names) => names
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect(),
        Err(_) => ["flex", "ndarray"]
            .into_iter()
            .filter(|name| open(name).is_some())
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    };
    assert!(
        !names.is_empty(),
        "compile with the feature flex or ndarray"
    );
    names
        .into_iter()
        .map(|name| {
            let device = open(&name).unwrap_or_else(|| {
                panic!("QUEST_TEST_DEVICES: {name} is not a device that is compiled in")
            });
            TestDevice { name, device }
        })
        .collect()
}

// The ndarray backend is deprecated; here it is a second opinion on the CPU.
#[allow(deprecated)]
fn open(name: &str) -> Option<Device> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Some(Device::flex()),
        #[cfg(feature = "ndarray")]
        "ndarray" => Some(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Some(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Some(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Some(Device::cuda(0)),
        _ => None,
    }
}
