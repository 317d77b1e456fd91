//! The guest's side of PCI hot-plug: one object for each slot that may change, and the method that
//! makes notifications of what the registers say.

use crate::pci::hotplug::{EJECT, HotplugController};
use acpi_tables::{
    Aml, AmlSink,
    aml::{
        And, Device, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
        Local, Method, Name, Notify, OpRegion, OpRegionSpace, Path, Store,
    },
};

/// Something may be there that was not.
const NOTIFY_DEVICE_CHECK: u8 = 1;
/// Let go of the device.
const NOTIFY_EJECT_REQUEST: u8 = 3;

/// The method that looks at the registers, to be called when they changed.
pub(super) fn scan() -> Path {
    "\\_SB_.PCI0.PSCN".into()
}

/// What belongs to the bus's own object: registers, slots, and the method. Bit `n` stands for slot
/// `n`. Slots that never change have no object: an object would give a network interface another
/// name in the guest.
pub(super) struct Slots(pub(super) u32);

impl Slots {
    fn numbers(&self) -> impl Iterator<Item = u32> {
        let slots = self.0;
        (1..u32::BITS).filter(move |slot| slots & 1 << slot != 0)
    }

    fn notices(&self, bits: Local, kind: u8) -> Notices {
        Notices { slots: self.numbers().collect(), bits, kind }
    }
}

impl Aml for Slots {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (base, len) = (HotplugController::BASE as u16, HotplugController::LEN as u8);
        OpRegion::new("PREG".into(), OpRegionSpace::SystemIO, &base, &len).to_aml_bytes(sink);
        const { assert!(EJECT == 8, "the third of three registers") };
        Field::new(
            "PREG".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![
                FieldEntry::Named(*b"PCIU", 32),
                FieldEntry::Named(*b"PCID", 32),
                FieldEntry::Named(*b"B0EJ", 32),
            ],
        )
        .to_aml_bytes(sink);
        for slot in self.numbers() {
            Device::new(
                name(slot),
                vec![
                    &Name::new("_ADR".into(), &(slot << 16)),
                    &Name::new("_SUN".into(), &slot),
                    &Method::new(
                        "_EJ0".into(),
                        1,
                        true,
                        vec![&Store::new(&Path::new("B0EJ"), &(1u32 << slot))],
                    ),
                ],
            )
            .to_aml_bytes(sink);
        }
        // What is wanted back is told first, but read last: a slot may have been emptied by force
        // and filled again since, and its new disk must not be told of before the old one is gone.
        let (come, gone) = (Local(0), Local(2));
        let (plugged, wanted) = (Path::new("PCIU"), Path::new("PCID"));
        Method::new(
            "PSCN".into(),
            0,
            true,
            vec![
                &Store::new(&come, &plugged),
                &Store::new(&gone, &wanted),
                &self.notices(Local(2), NOTIFY_EJECT_REQUEST),
                &self.notices(Local(0), NOTIFY_DEVICE_CHECK),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// One notification for each bit that is set in a local variable.
struct Notices {
    slots: Vec<u32>,
    bits: Local,
    kind: u8,
}

impl Aml for Notices {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        for &slot in &self.slots {
            let bit = 1u32 << slot;
            And::new(&Local(1), &self.bits, &bit).to_aml_bytes(sink);
            let (equal, object) = (Equal::new(&Local(1), &bit), name(slot));
            If::new(&equal, vec![&Notify::new(&object, &self.kind)]).to_aml_bytes(sink);
        }
    }
}

fn name(slot: u32) -> Path {
    format!("S{slot:02X}_").as_str().into()
}
