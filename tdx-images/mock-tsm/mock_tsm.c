// SPDX-License-Identifier: GPL-2.0
/*
 * A report provider for debug images under emulation. Its outblob is a fixed quote (template.h, written by the build)
 * with the caller's REPORTDATA put in, so its signature is wrong: it attests nothing. It calls itself tdx_guest, which
 * is what the driver under test asks for.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/tsm.h>

#include "template.h"

#define MOCK_REPORT_DATA_OFFSET (48 + 520)
#define MOCK_REPORT_DATA_BYTES 64

static int mock_report_new(struct tsm_report *report, void *data)
{
	struct tsm_desc *desc = &report->desc;
	u8 *blob;

	if (desc->inblob_len != MOCK_REPORT_DATA_BYTES)
		return -EINVAL;
	blob = kvmemdup(mock_quote, sizeof(mock_quote), GFP_KERNEL);
	if (!blob)
		return -ENOMEM;
	memcpy(blob + MOCK_REPORT_DATA_OFFSET, desc->inblob, MOCK_REPORT_DATA_BYTES);
	report->outblob = blob;
	report->outblob_len = sizeof(mock_quote);
	return 0;
}

static const struct tsm_ops mock_ops = {
	.name = "tdx_guest",
	.report_new = mock_report_new,
};

static int __init mock_init(void)
{
	return tsm_register(&mock_ops, NULL);
}

static void __exit mock_exit(void)
{
	tsm_unregister(&mock_ops);
}

module_init(mock_init);
module_exit(mock_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("mock TSM report provider: attests nothing");
