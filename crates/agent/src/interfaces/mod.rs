//! Which VMM has which ENI, as the owners of the instances last saw it, and what the controller is
//! told of it.

use api::{
    host::{EniSpec, EniStatus, HostSpec},
    vmm::AttachedNic,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Code of an ENI whose network is not as its spec wants it.
pub const NETWORK_NOT_READY: &str = "NetworkNotReady";

/// The ENIs of one VMM, by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NicsOfVmm {
    /// Those it has, or may have; `None`: it has not said so yet.
    pub attached: BTreeMap<String, Option<AttachedNic>>,
    /// Why one is not as the spec wants it: code and explanation.
    pub problems: BTreeMap<String, (String, String)>,
}

impl NicsOfVmm {
    /// Of a VMM that has, or may have, these; what it says of them comes later.
    pub fn presumed(enis: &[String]) -> Self {
        let attached = enis.iter().map(|id| (id.clone(), None)).collect();
        Self { attached, problems: BTreeMap::new() }
    }
}

/// Of all VMMs of this host.
#[derive(Debug, Default)]
pub struct Interfaces {
    by_instance: Mutex<BTreeMap<String, NicsOfVmm>>,
    /// Generation of each ENI's spec that the host's networks follow.
    followed: Mutex<HashMap<String, u64>>,
}

impl Interfaces {
    /// Notes the ENIs of an instance whose VMM lives. True if anything changed.
    pub fn set(&self, instance_id: &str, nics: NicsOfVmm) -> bool {
        let old = self.lock().insert(instance_id.to_owned(), nics.clone());
        old != Some(nics)
    }

    /// The instance's VMM is gone.
    pub fn clear(&self, instance_id: &str) {
        self.lock().remove(instance_id);
    }

    /// The host's networks have been made as this spec says.
    pub fn follow(&self, spec: &HostSpec) {
        let enis = spec.instances.iter().flat_map(|instance| &instance.enis);
        let generations = enis.map(|eni| (eni.eni_id.clone(), eni.generation)).collect();
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = generations;
    }

    /// Every ENI that an instance of this host has, or should have. `network_problem` says why an
    /// ENI's network is not as wanted.
    pub fn report(
        &self,
        spec: &HostSpec,
        network_problem: impl Fn(&EniSpec) -> Option<String>,
    ) -> Vec<EniStatus> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = self.lock();
        let mut report = BTreeMap::new();
        for (instance_id, nics) in all.iter() {
            for eni_id in nics.attached.keys() {
                let (code, message) = nics.problems.get(eni_id).cloned().unwrap_or_default();
                let status = EniStatus {
                    eni_id: eni_id.clone(),
                    observed_generation: 0,
                    attached_instance_id: instance_id.clone(),
                    code,
                    message,
                };
                report.insert(eni_id.clone(), status);
            }
        }
        for instance in &spec.instances {
            let nics = all.get(&instance.instance_id);
            for eni in &instance.enis {
                let id = &eni.eni_id;
                let status = report.entry(id.clone()).or_insert_with(|| {
                    let mut status = EniStatus { eni_id: id.clone(), ..EniStatus::default() };
                    match nics {
                        // A VMM that lives and has not got it yet.
                        Some(nics) => {
                            let problem = nics.problems.get(id).cloned().unwrap_or_default();
                            (status.code, status.message) = problem;
                        }
                        // It has its place at the next start.
                        None => status.attached_instance_id.clone_from(&instance.instance_id),
                    }
                    status
                });
                status.observed_generation = followed.get(id).copied().unwrap_or(0);
                if status.code.is_empty()
                    && let Some(problem) = network_problem(eni)
                {
                    (status.code, status.message) = (NETWORK_NOT_READY.to_owned(), problem);
                }
            }
        }
        report.into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, NicsOfVmm>> {
        self.by_instance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::host::InstanceSpec;

    fn spec(enis: &[&str]) -> HostSpec {
        let eni =
            |id: &&str| EniSpec { eni_id: (*id).to_owned(), generation: 3, ..EniSpec::default() };
        let instance = InstanceSpec {
            instance_id: "i-1".to_owned(),
            enis: enis.iter().map(eni).collect(),
            ..InstanceSpec::default()
        };
        HostSpec { instances: vec![instance], ..HostSpec::default() }
    }

    fn told(interfaces: &Interfaces, spec: &HostSpec) -> Vec<(String, String, u64, String)> {
        let report = interfaces.report(spec, |eni| {
            (eni.eni_id == "eni-broken").then(|| "no room for its tap".to_owned())
        });
        let tell = |s: EniStatus| (s.eni_id, s.attached_instance_id, s.observed_generation, s.code);
        report.into_iter().map(tell).collect()
    }

    fn row(id: &str, instance: &str, generation: u64, code: &str) -> (String, String, u64, String) {
        (id.to_owned(), instance.to_owned(), generation, code.to_owned())
    }

    #[test]
    fn an_eni_is_at_a_stopped_instance_and_with_a_vmm_only_once_that_has_it() {
        let interfaces = Interfaces::default();
        let spec = spec(&["eni-1", "eni-broken"]);
        assert_eq!(
            told(&interfaces, &spec),
            [row("eni-1", "i-1", 0, ""), row("eni-broken", "i-1", 0, NETWORK_NOT_READY)]
        );
        interfaces.follow(&spec);
        let mut nics = NicsOfVmm::presumed(&["eni-1".to_owned(), "eni-left".to_owned()]);
        let slow = ("DetachNotAnswered".to_owned(), "asked".to_owned());
        nics.problems.insert("eni-left".to_owned(), slow);
        assert!(interfaces.set("i-1", nics.clone()));
        assert!(!interfaces.set("i-1", nics));
        assert_eq!(
            told(&interfaces, &spec),
            [
                row("eni-1", "i-1", 3, ""),
                row("eni-broken", "", 3, NETWORK_NOT_READY),
                row("eni-left", "i-1", 0, "DetachNotAnswered"),
            ]
        );
        interfaces.clear("i-1");
        assert_eq!(told(&interfaces, &spec)[0], row("eni-1", "i-1", 3, ""));
    }
}
