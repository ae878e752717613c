"""Fixed wording that every split shares: greetings, footers, instructions, table headers, sentence patterns.

Words that occur here (or in a field label) are *structural*: they may be seen in training. All other words are divided
between the splits, so any fixed text a layout prints has to live in this module.
"""

from __future__ import annotations


RECEIPT_FOOTERS = (
    "Thank you, please come again",
    "Goods sold are not returnable",
    "Exchange within 7 days with receipt",
    "Have a nice day",
    "Thank you for shopping with us",
    "No cash refund",
    "Please keep this receipt for your records",
    "Tell us how we did",
    "Customer copy",
    "Prices include tax",
)
RECEIPT_TITLES = (
    "Tax Invoice",
    "Cash Bill",
    "Receipt",
    "Sales Receipt",
    "Cash Receipt",
    "Cash Sale",
    "Official Receipt",
)
SUBTOTALS = ("Subtotal", "Sub Total", "Sub-Total", "Total Excl Tax", "Net")
TAXES = ("Tax", "GST", "VAT", "Sales Tax", "GST 6%", "Service Tax", "VAT 20%")
TOTALS = ("Total", "TOTAL", "Grand Total", "Total Amount", "Amount Due", "Total Due", "Net Total", "Total Payable")
PAYMENTS = ("Cash", "Card", "Visa", "Credit Card", "Cash Tendered", "Paid")
CHANGES = ("Change", "Change Due", "Balance")
RECEIPT_META = (
    ("Invoice No", "code"),
    ("Receipt No", "code"),
    ("Bill No", "code"),
    ("Cashier", "name"),
    ("Table", "short"),
    ("Terminal", "code"),
    ("Member", "code"),
    ("Time", "time"),
    ("Salesperson", "name"),
    ("Counter", "short"),
    ("Doc No", "code"),
    ("Staff", "name"),
)
INVOICE_META = (
    ("Invoice No", "code"),
    ("Invoice Date", "date"),
    ("Due Date", "date"),
    ("Customer No", "code"),
    ("PO Number", "code"),
    ("Terms", "terms"),
    ("Sales Rep", "name"),
    ("Ship Via", "company"),
    ("Currency", "currency"),
    ("Order No", "code"),
)
INVOICE_NOTES = (
    "Please make all checks payable to",
    "Payment is due within 30 days",
    "Thank you for your business",
    "Interest is charged on late payments",
    "Please include the invoice number on your check",
)
ITEM_HEADERS = ("Description", "Item", "Product", "Details", "Item Description", "Particulars")
QUANTITY_HEADERS = ("Qty", "Quantity", "Units", "Pcs")
PRICE_HEADERS = ("Unit Price", "Price", "Rate", "Each")
AMOUNT_HEADERS = ("Amount", "Total", "Line Total", "Amt")
TABLE_HEADERS = (
    ("Name", "name"),
    ("Date", "date"),
    ("Amount", "amount"),
    ("Code", "code"),
    ("City", "place"),
    ("Units", "integer"),
    ("Rate", "percent"),
    ("Weight", "measure"),
    ("Status", "status"),
    ("Price", "amount"),
    ("Score", "decimal"),
    ("Total", "integer"),
    ("Mean", "decimal"),
    ("Share", "percent"),
    ("Time", "time"),
    ("Group", "short"),
    ("Volume", "integer"),
    ("Cost", "amount"),
    ("Stores", "integer"),
    ("Male", "decimal"),
    ("Female", "decimal"),
    ("Base", "integer"),
    ("Manager", "name"),
    ("Region", "place"),
    ("Order No", "code"),
)
ROW_HEADERS = ("Item", "Product", "Particulars", "Type", "Sample", "")
KEY_NOTES = (" (if any)", " (mm/dd/yy)", " (print)", " (optional)", " (Name/Telephone)", " (max.)", " (%)", " (total)")
TABLE_TITLES = (
    "Summary of",
    "Results for",
    "Overview of",
    "Schedule of",
    "Table 1.",
    "Table 2.",
    "Report on",
    "List of",
)
STATUSES = ("open", "closed", "paid", "pending", "active", "late", "N/A", "done", "new", "void")
TERMS = ("Net 15", "Net 30", "Net 60", "Cash on delivery", "Due on receipt", "Prepaid", "30 days")
INSTRUCTIONS = (
    "Please print clearly and complete all items.",
    "Please include only one type of material on this form.",
    "To be filled out by the department.",
    "Attach additional sheets as necessary.",
    "For office use only.",
    "Return this form to the address below.",
    "Please complete every section and sign the form.",
    "Use a separate form for each request.",
    "See back of page for instructions.",
)
SECTIONS = (
    "General Information",
    "Contact Details",
    "Payment",
    "Approvals",
    "Background",
    "Shipping",
    "Test Data",
    "Summary",
    "Part A",
    "Part B",
    "Section 1",
    "Section 2",
    "For Office Use",
    "Distribution",
    "Attributes",
    "Physical Characteristics",
)
SIGN_OFFS = ("Yours sincerely,", "Sincerely,", "Best regards,", "Yours truly,", "Kind regards,", "Respectfully,")
GREETINGS = ("Dear", "Dear Dr.", "Dear Mr.", "Dear Ms.", "To")
SIGNATURE_LABELS = ("Signature", "Date", "Approved", "Authorized Signature", "Director", "Manager", "Sign Here")
STAMPS = ("PAID", "COPY", "SECRET", "RECEIVED", "APPROVED", "DRAFT", "CONFIDENTIAL", "VOID", "FILE", "URGENT")
HEADINGS = (
    "Introduction",
    "Methods",
    "Results",
    "Discussion",
    "Conclusion",
    "Background",
    "Related Work",
    "Data",
    "Model",
    "Analysis",
    "Limits",
    "Summary",
)
CAPTIONS = ("Figure 1.", "Figure 2.", "Fig. 3.", "Figure 4.")
CHART_TITLES = (
    "Share of",
    "Number of",
    "Sales of",
    "Use of",
    "Cost of",
    "Growth in",
    "Output of",
    "Demand for",
    "Price of",
)
CHART_TAILS = (
    "by region",
    "per year",
    "by group",
    "in percent",
    "by product",
    "over time",
    "in thousands",
    "by country",
)
CHART_NOTES = ("Source: Survey of", "Note: Figures are rounded.", "Source: Annual report of", "Note: N = 1,204")
SIGN_WORDS = (
    "STOP EXIT OPEN CLOSED SALE PARKING ENTRANCE CAFE HOTEL BANK BAKERY PUSH PULL TAXI MENU FRESH FREE NEW BEST "
    "NO WAY ONE SLOW ROAD WORK AHEAD TOILETS GATE PLATFORM TICKETS INFORMATION LEFT RIGHT STREET AVENUE HOUSE "
    "SHOP FOOD DRINKS"
).split()
FRAMES = (
    "The {adj} {noun} {verb} the {noun}.",
    "{Noun} {verb} the {adj} {noun} of {place}.",
    "Our {noun} {verb} a {adj} {noun} and the {noun} {verb} it.",
    "The {noun} of {name} {verb} each {adj} {noun}.",
    "In {month} the {noun} {verb} {number} {adj} {noun} units.",
    "A {adj} {noun} {verb} the {noun} at {number} percent.",
    "This {noun} {verb} the {noun}, but the {adj} {noun} {verb} it.",
    "When the {noun} {verb}, the {adj} {noun} {verb} the {noun}.",
    "{Name} {verb} the {noun} with a {adj} {noun}.",
    "Please note that the {adj} {noun} {verb} the {noun}.",
    "We found that {number} of the {noun} samples were {adj} and {adj}.",
    "All {noun} work is to be done with the {adj} {noun} of {company}.",
    "As a result, the {noun} {verb} the {noun} (see {code}).",
    "{Adj} {noun} and {noun}, as in {place}, {verb} no {noun}.",
)
SCENE_WORDS = (
    "red green blue yellow orange purple pink brown black gray cyan white circle square triangle star diamond "
    "hexagon cross ring pentagon small large left right above below circles squares triangles stars diamonds "
    "hexagons crosses rings pentagons bar line pie chart table form receipt invoice letter page text"
)
MISCELLANEOUS = (
    "Page of Form Rev No. Number Date Total To From Subject Cc Re Attention Attn Invoice Bill Ship Sold Tel Phone "
    "Fax Reg Company Name Address Item Items Each Price Amount Description Dear Yes Other Abstract By Written "
    "Author Department University Institute Street Suite Room Floor Box Enclosure Copy Copies Sample Data Key "
    "Reference www com org net Dr. Mr. Ms. Thank you memo memorandum Northern Southern pack pieces case hours "
    "minutes days months years weeks percent applicable none same above below approximately hundred thousand "
    "million pages total section week quarter customer account annual sales index units score rate mail info "
    "office contact per pcs bag bottle male female under over Report Plan Group Center Price list each dollars "
    "currency euro pound kilo gram meter quick notes legend value year"
)
