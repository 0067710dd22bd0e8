use std::{fs, process::Command};

use burn::tensor::{DType, Device};

use quest_burn_report::memory;

use crate::{BenchError, Launch};

/// Where a benchmark runs.
#[derive(Clone, Debug)]
pub struct Target {
    device: Device,
    backend: String,
    name: String,
    driver: Option<String>,
}

impl Target {
    /// `backend` is the device's name on the command line, as it stands in the results.
    pub fn new(device: Device, backend: impl Into<String>) -> Self {
        let name = identity(&device).unwrap_or_else(processor);
        let driver = name.contains("NVIDIA").then(nvidia_driver).flatten();
        Self {
            device,
            backend: backend.into(),
            name,
            driver,
        }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The backend's name, such as `cuda`.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The hardware's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver's version, where it can be found out.
    pub fn driver(&self) -> Option<&str> {
        self.driver.as_deref()
    }

    /// Whether the device is a GPU: something that takes work faster than it does it.
    pub fn is_gpu(&self) -> bool {
        identity(&self.device).is_some()
    }

    /// The element type asked for, or f16 on GPUs that compute in it and f32 elsewhere.
    ///
    /// # Errors
    ///
    /// When the device does not compute in the one asked for.
    pub fn dtype(&self, option: &'static str, asked: Option<DType>) -> Result<DType, BenchError> {
        match asked {
            Some(asked) if !self.device.supports_dtype(asked) => Err(BenchError::Option {
                option,
                expected: format!("an element type that {} computes in", self.backend),
                found: asked.name().to_owned(),
            }),
            Some(asked) => Ok(asked),
            None if self.is_gpu() && self.device.supports_dtype(DType::F16) => Ok(DType::F16),
            None => Ok(DType::F32),
        }
    }

    /// The ways of launching among those asked for that the device has; says on stderr where some
    /// are left out.
    ///
    /// # Errors
    ///
    /// When none is left.
    pub(crate) fn launches(&self, asked: &[Launch]) -> Result<Vec<Launch>, BenchError> {
        if self.is_gpu() || !asked.contains(&Launch::Graph) {
            return Ok(asked.to_vec());
        }
        let why = format!("{} cannot record launches", self.backend);
        if !asked.contains(&Launch::Plain) {
            return Err(BenchError::Option {
                option: "--launch",
                expected: format!("plain, as {why}"),
                found: "graph".into(),
            });
        }
        eprintln!("launch: plain ({why})");
        Ok(vec![Launch::Plain])
    }

    /// Bytes of memory that the device has.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        match self.is_gpu() {
            true => device_memory(&self.device),
            false => memory::available_on_host(),
        }
    }
}

#[cfg(feature = "gpu")]
fn identity(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

#[cfg(not(feature = "gpu"))]
fn identity(_device: &Device) -> Option<String> {
    None
}

/// Bytes of memory that a GPU has, where CubeCL knows.
#[cfg(feature = "gpu")]
pub fn device_memory(device: &Device) -> Option<u64> {
    use burn::backend::DispatchDevice;

    match device.as_dispatch() {
        DispatchDevice::Cube(cube) => cube.client().properties().memory.max_memory(),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// Bytes of memory that a GPU has: no GPU is compiled in.
#[cfg(not(feature = "gpu"))]
pub fn device_memory(_device: &Device) -> Option<u64> {
    None
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut names = info.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let name = names.next().unwrap_or_else(|| "CPU".into());
    format!("{name}, {threads} threads")
}

fn nvidia_driver() -> Option<String> {
    let query = ["--query-gpu=driver_version", "--format=csv,noheader"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let first = text.lines().next()?.trim();
    (output.status.success() && !first.is_empty()).then(|| first.to_owned())
}
