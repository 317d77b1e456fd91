//! Traffic control: rates of interfaces and of classes, and detours by way of other interfaces.
//!
//! Numbers are those of linux/pkt_sched.h and linux/pkt_cls.h. What the kernel says of a queue is
//! compared as bytes with what it said right after it was set.

use super::Netlink;
use crate::Error;
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcActionAttribute, TcActionMirrorOption, TcActionOption, TcAttribute, TcFilterU32Option,
        TcHandle, TcMessage, TcOption,
    },
};
use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};

const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_PRATE64: u16 = 5;
const TCA_TBF_BURST: u16 = 6;
const TCA_TBF_PBURST: u16 = 7;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const HTB_VERSION: u32 = 3;
const LINKLAYER_ETHERNET: u8 = 1;
/// A tick of the scheduler's clock, in nanoseconds.
const TICK_NS: u128 = 64;
/// Major number of the queues we make at the root of an interface.
const ROOT_MAJOR: u16 = 1;
/// Of the detour's filter, and the protocol it is for: all.
const PRIORITY: u16 = 1;
const ETH_P_ALL: u16 = 0x0003;

/// A queue that lets through so many bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) bytes_per_second: u64,
    /// May be sent at once, or at the peak rate if there is one.
    pub(crate) burst_bytes: u32,
    /// Bytes per second and at once while there is burst; none for any.
    pub(crate) peak: Option<(u64, u32)>,
    /// May wait; what is beyond is dropped.
    pub(crate) queue_bytes: u32,
}

/// Which way packets go through an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    In,
    Out,
}

/// A queueing discipline or a class as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) link: u32,
    pub(crate) handle: TcHandle,
    pub(crate) parent: TcHandle,
    pub(crate) kind: String,
    pub(crate) options: Vec<u8>,
}

impl Shown {
    pub(crate) fn is_root(&self) -> bool {
        self.parent == TcHandle::ROOT
    }

    fn new(message: &TcMessage) -> Option<Self> {
        let mut shown = Self {
            link: u32::try_from(message.header.index).ok()?,
            handle: message.header.handle,
            parent: message.header.parent,
            kind: String::new(),
            options: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => shown.kind.clone_from(kind),
                TcAttribute::Options(options) => {
                    shown.options = vec![0; options.as_slice().buffer_len()];
                    options.as_slice().emit(&mut shown.options);
                }
                _ => {}
            }
        }
        Some(shown)
    }
}

/// struct tc_ratespec.
fn ratespec(bytes_per_second: u64) -> Vec<u8> {
    let mut spec = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    spec.extend(u32::try_from(bytes_per_second).unwrap_or(u32::MAX).to_ne_bytes());
    spec
}

fn option(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

fn ticks(bytes: u32, bytes_per_second: u64) -> u32 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    u32::try_from(ns / TICK_NS).unwrap_or(u32::MAX)
}

fn tbf(rate: &Rate) -> Vec<TcOption> {
    let (peak, peak_burst) = rate.peak.unwrap_or((0, 0));
    let mut parms = ratespec(rate.bytes_per_second);
    parms.extend(if peak == 0 { vec![0; 12] } else { ratespec(peak) });
    parms.extend(rate.queue_bytes.to_ne_bytes());
    // Burst and peak's burst come by themselves.
    parms.extend([0; 8]);
    let mut options = vec![
        option(TCA_TBF_PARMS, parms),
        option(TCA_TBF_RATE64, rate.bytes_per_second.to_ne_bytes().to_vec()),
        option(TCA_TBF_BURST, rate.burst_bytes.to_ne_bytes().to_vec()),
    ];
    if peak != 0 {
        options.push(option(TCA_TBF_PRATE64, peak.to_ne_bytes().to_vec()));
        options.push(option(TCA_TBF_PBURST, peak_burst.to_ne_bytes().to_vec()));
    }
    options
}

fn htb_class(rate: &Rate) -> Vec<TcOption> {
    let bytes = rate.bytes_per_second;
    let mut parms = [ratespec(bytes), ratespec(bytes)].concat();
    let burst = ticks(rate.burst_bytes, bytes);
    parms.extend(burst.to_ne_bytes());
    parms.extend(burst.to_ne_bytes());
    // Quantum: as much as one class sends before another has its turn. Level and priority: 0.
    parms.extend(60_000u32.to_ne_bytes());
    parms.extend([0; 8]);
    vec![
        option(TCA_HTB_PARMS, parms),
        option(TCA_HTB_RATE64, bytes.to_ne_bytes().to_vec()),
        option(TCA_HTB_CEIL64, bytes.to_ne_bytes().to_vec()),
    ]
}

fn message(link: u32, parent: TcHandle, handle: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(link.cast_signed());
    message.header.parent = parent;
    message.header.handle = handle;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

fn root() -> TcHandle {
    TcHandle { major: ROOT_MAJOR, minor: 0 }
}

fn class(minor: u16) -> TcHandle {
    TcHandle { major: ROOT_MAJOR, minor }
}

impl Netlink {
    async fn ask(&self, message: RouteNetlinkMessage, flags: u16, what: &str) -> Result<(), Error> {
        let error = self.error(what);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(request).map_err(&error)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(e) = answer.payload
                && e.code.is_some()
            {
                return Err(error(rtnetlink::Error::NetlinkError(e)));
            }
        }
        Ok(())
    }

    /// All queueing disciplines of the namespace.
    pub(crate) async fn queues(&self) -> Result<Vec<Shown>, Error> {
        let error = self.error("list queues (kernel module sch_tbf)");
        let messages: Vec<TcMessage> =
            self.handle.qdisc().get().execute().try_collect().await.map_err(error)?;
        Ok(messages.iter().filter_map(Shown::new).collect())
    }

    /// Limits what leaves by an interface as a whole.
    pub(crate) async fn set_rate(&self, link: u32, rate: &Rate) -> Result<(), Error> {
        let mut message = message(link, TcHandle::ROOT, root(), "tbf");
        message.attributes.push(TcAttribute::Options(tbf(rate)));
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        let what = "limit an interface (kernel module sch_tbf)";
        self.ask(message, NLM_F_CREATE | NLM_F_REPLACE, what).await
    }

    /// Makes place for detours.
    pub(crate) async fn add_detours(&self, link: u32) -> Result<(), Error> {
        let message =
            message(link, TcHandle::INGRESS, TcHandle { major: 0xffff, minor: 0 }, "clsact");
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        let what = "make place for a filter (kernel module sch_ingress)";
        self.ask(message, NLM_F_CREATE, what).await
    }

    pub(crate) async fn delete_queue(&self, queue: &Shown) -> Result<(), Error> {
        let message = message(queue.link, queue.parent, queue.handle, &queue.kind);
        let message = RouteNetlinkMessage::DelQueueDiscipline(message);
        self.ask(message, 0, "delete a queue").await
    }

    /// The interfaces that packets go to instead, of both ways: filters of this kind are shown together
    /// where one of them is asked for. None if this way has no filter.
    pub(crate) async fn detours(&self, link: u32, way: Way) -> Result<Vec<u32>, Error> {
        let request = self.handle.traffic_filter(link.cast_signed()).get();
        let request = match way {
            Way::In => request.ingress(),
            Way::Out => request.egress(),
        };
        let error = self.error("list filters");
        let messages: Vec<TcMessage> = request.execute().try_collect().await.map_err(error)?;
        Ok(messages.iter().filter_map(detour).collect())
    }

    /// Sends packets by way of another interface, which brings them back.
    pub(crate) async fn set_detour(&self, link: u32, way: Way, by: u32) -> Result<(), Error> {
        let request = self.handle.traffic_filter(link.cast_signed()).add();
        let request = match way {
            Way::In => request.ingress(),
            Way::Out => request.egress(),
        };
        let error = self.error("send packets by way of a queue (modules cls_u32, act_mirred)");
        let request =
            request.priority(PRIORITY).protocol(ETH_P_ALL.to_be()).redirect(by).map_err(&error)?;
        request.execute().await.map_err(error)
    }

    /// Makes an interface one whose classes have a limit each; what is of no class has none.
    pub(crate) async fn set_classful(&self, link: u32) -> Result<(), Error> {
        let mut message = message(link, TcHandle::ROOT, root(), "htb");
        // struct tc_htb_glob: version, quantum divisor, no default class.
        let init: Vec<u8> =
            [HTB_VERSION, 10, 0, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        message.attributes.push(TcAttribute::Options(vec![option(TCA_HTB_INIT, init)]));
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        let what = "limit an interface by classes (kernel module sch_htb)";
        self.ask(message, NLM_F_CREATE | NLM_F_REPLACE, what).await
    }

    /// Minor numbers of an interface's classes, and how they are shown.
    pub(crate) async fn classes(&self, link: u32) -> Result<Vec<(u16, Shown)>, Error> {
        let error = self.error("list classes");
        let request = self.handle.traffic_class(link.cast_signed()).get();
        let messages: Vec<TcMessage> = request.execute().try_collect().await.map_err(error)?;
        Ok(messages
            .iter()
            .filter_map(Shown::new)
            .filter(|shown| shown.handle.major == ROOT_MAJOR)
            .map(|shown| (shown.handle.minor, shown))
            .collect())
    }

    pub(crate) async fn set_class(&self, link: u32, minor: u16, rate: &Rate) -> Result<(), Error> {
        let mut message = message(link, root(), class(minor), "htb");
        message.attributes.push(TcAttribute::Options(htb_class(rate)));
        let message = RouteNetlinkMessage::NewTrafficClass(message);
        self.ask(message, NLM_F_CREATE, "set a class").await?;
        let mut message = self::message(link, class(minor), TcHandle::default(), "bfifo");
        let limit = DefaultNla::new(TCA_OPTIONS, rate.queue_bytes.to_ne_bytes().to_vec());
        message.attributes.push(TcAttribute::Other(limit));
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.ask(message, NLM_F_CREATE | NLM_F_REPLACE, "set the queue of a class").await
    }

    pub(crate) async fn delete_class(&self, link: u32, minor: u16) -> Result<(), Error> {
        let message = message(link, root(), class(minor), "htb");
        self.ask(RouteNetlinkMessage::DelTrafficClass(message), 0, "delete a class").await
    }
}

/// The interface in a filter that [`Netlink::set_detour`] made.
fn detour(message: &TcMessage) -> Option<u32> {
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let actions = options.iter().find_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    })?;
    actions.iter().flat_map(|action| &action.attributes).find_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(to)) => Some(to.ifindex),
            _ => None,
        }),
        _ => None,
    })
}
