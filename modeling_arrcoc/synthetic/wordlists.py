"""Lists of English words, names and field labels from which documents are written.

Only data. What may appear in which split is decided in :mod:`arrcoc.synthetic.vocabulary`.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(";") if part.strip())


FIRST_NAMES = _words(
    """
    Aaron Abigail Adam Adele Adrian Agnes Aidan Alan Albert Alice Alma Amanda Amber Amelia Amir Ana Andre Andrea
    Angela Anita Anna Anthony Arjun Arthur Astrid Audrey Austin Barbara Beatrice Benjamin Bernard Beth Bianca Boris
    Bradley Brenda Brian Bridget Bruno Caleb Camille Carl Carla Carlos Carmen Caroline Cecil Chandra Charles Chloe
    Christine Claire Clara Clifford Colin Connie Cora Craig Cynthia Daisy Damian Daniel Daphne Darius David Deborah
    Denise Dennis Diana Diego Dmitri Donald Doris Dorothy Douglas Edgar Edith Edward Edwin Elaine Elena Eli Elisa
    Elizabeth Ellen Elsa Emil Emily Emma Enrique Eric Esther Ethan Eugene Eva Evelyn Farah Fatima Felix Fiona
    Florence Frances Francis Frank Freda Gabriel Gail Gary Gavin Geoffrey George Gerald Gina Gloria Gordon Greta
    Gustav Hana Hannah Harold Harriet Hazel Hector Helen Henry Herbert Hilda Howard Hugo Ian Ibrahim Ida Ingrid
    Irene Iris Isaac Isabel Ivan Jacob Jade Jamal Janet Jasmine Jason Javier Jean Jeremy Jerome Joan Joel Johanna
    Jonas Joseph Joyce Juan Judith Julia Julian Karen Karim Karl Kathryn Keiko Keith Kenneth Kevin Kiran Klaus Lara
    Laura Lawrence Leah Leon Leona Leslie Liam Lidia Lillian Linda Lionel Louis Lucas Lucy Luther Lydia Mabel Magda
    Malcolm Manuel Marcus Maria Marion Marlene Martha Martin Marvin Mathilda Maurice Mei Melissa Mercedes Michael
    Miguel Milton Miriam Mohammed Monica Morgan Muriel Nadia Naomi Natalie Nathan Neil Nicholas Nina Noel Nora
    Norman Olga Oliver Olivia Omar Oscar Owen Pamela Patrick Paula Pedro Percy Petra Philip Phyllis Pierre Priya
    Quentin Rachel Ralph Ramona Raymond Rebecca Reginald Renata Richard Rita Robert Roger Roland Rosa Rosemary Roy
    Rupert Ruth Samuel Sandra Sanjay Sarah Sebastian Selma Sharon Sheila Sidney Simon Sofia Sonia Stanley Stefan
    Stella Stephen Susan Sven Sylvia Tamara Tariq Teresa Thelma Theodore Thomas Timothy Tobias Tomas Ursula Valerie
    Vanessa Vera Vernon Veronica Victor Vincent Viola Virginia Vivian Wallace Walter Wanda Wendy Wesley Wilfred
    Willem William Winston Xavier Yasmin Yolanda Yusuf Yvonne Zachary Zelda Zoe
    """
)

SURNAMES = _words(
    """
    Abbott Ackerman Adeyemi Ahmed Albright Aldridge Allard Alvarez Ambrose Andersen Archer Armitage Ashworth Atkins
    Avery Bagley Bailey Baldwin Banerjee Barclay Barnett Barros Barton Baxter Beaumont Beckett Bellamy Benitez
    Bergman Bernier Bishop Blackwood Blair Blanchard Blum Bolton Borg Bowman Bradshaw Brandt Brennan Briggs Brooks
    Buchanan Burgess Burkhart Byrne Caldwell Callahan Cameron Campos Carlisle Carlson Carney Castillo Chambers
    Chandler Chavez Choi Clarke Clayton Coleman Conrad Corbett Cortez Crawford Crosby Cunningham Curtis Dalton
    Danielson Davenport Dawson Delgado Denham Desai Devlin Diaz Dickson Dixon Dobson Donovan Drummond Dubois Duncan
    Eastwood Eckhart Edmonds Egan Ellison Emerson Engel Eriksen Espinoza Everett Falkner Farrell Faulk Ferguson
    Fielding Finch Fischer Fitzgerald Fleming Flores Forsyth Fournier Franklin Frazier Freeman Fujita Fuller
    Gallagher Galvez Gardner Garrison Gibbs Gilmore Goddard Goldberg Gonzalez Goodwin Grady Granger Greenwood
    Gregson Griffith Gruber Guerrero Gupta Haines Halvorsen Hammond Hansen Hardwick Harmon Hartley Hastings
    Hawthorne Hayward Henderson Herrera Hickman Higgins Hinton Hoffman Holbrook Holloway Hopkins Horvath Houston
    Hubbard Hughes Hutchins Ibarra Ingram Irving Jacobsen Jarvis Jennings Jimenez Johansson Kaminski Kaplan Kapoor
    Keating Kellerman Kendrick Kessler Khan Kimura Kirkland Klein Knox Kowalski Kramer Krishnan Kruger Lambert
    Landry Langley Larkin Laurent Lawson Leclerc Lehman Leighton Leonard Lindqvist Lockhart Lombardi Lopez Lowell
    Lundgren Macleod Maddox Mahoney Malone Manning Marchetti Marsden Martinez Mathis Maxwell Mcallister Mccarthy
    Mcdonald Mcgrath Mckenna Mehta Mendoza Mercer Merritt Meyer Middleton Mitchell Monroe Montgomery Morales Moreno
    Morrison Mueller Murdock Murphy Nakamura Navarro Nelson Newton Nguyen Nielsen Norwood Novak Nugent Obrien Ochoa
    Oconnor Okafor Oliveira Olsen Ortega Osborne Padilla Pagett Palmer Park Parrish Patel Patterson Pearson Pereira
    Perkins Petersen Phelps Pickering Pierce Pittman Porter Prescott Preston Quigley Quinn Radcliffe Ramirez
    Randall Rasmussen Redmond Reeves Reilly Reyes Reynolds Richter Riddle Rivera Robertson Rockwell Rodriguez
    Romano Rosenthal Rossi Rowland Russo Sanchez Sanders Santiago Sawyer Schaefer Schmidt Schneider Schroeder
    Sharma Shepherd Sheridan Silverman Simmons Sinclair Singh Slater Sorensen Spencer Stafford Stanton Steele
    Stevenson Stratton Sullivan Suzuki Swanson Tanaka Tate Thornton Tillman Torres Townsend Trevino Tucker
    Underwood Valdez Vance Vandyke Vasquez Vaughn Vega Villareal Vogel Wagner Wakefield Walters Warner Watanabe
    Weaver Webster Weiss Whitaker Whitfield Wilkins Winslow Winters Wolfe Woodard Wright Wyatt Yamamoto Yates York
    Young Zamora Zhang Ziegler Zimmerman
    """
)

PLACES = _words(
    """
    Aberdeen Albany Amherst Arlington Ashford Aspen Atlanta Auburn Augusta Baltimore Bangor Bayview Bedford Belmont
    Berkeley Birmingham Boston Boulder Bradford Brighton Bristol Brookfield Buffalo Burlington Calgary Cambridge
    Canton Carlton Charleston Chester Chicago Clearwater Cleveland Clifton Columbia Concord Coventry Dallas Danbury
    Dayton Denver Derby Detroit Dover Dublin Durham Edmonton Elmira Erie Essex Evanston Fairview Falmouth Fargo
    Fremont Fresno Galway Geneva Georgetown Glendale Granby Greensboro Greenville Halifax Hamilton Hampton Harlow
    Hartford Helena Highland Houston Huntington Ipswich Ithaca Jackson Jamestown Kingston Knoxville Lakewood
    Lancaster Lansing Laredo Lebanon Leeds Lexington Lincoln Lisbon Liverpool Louisville Lowell Madison Manchester
    Marietta Memphis Meridian Midland Milton Milwaukee Mobile Monterey Montreal Nashville Newark Newport Norfolk
    Northfield Norwich Oakland Ogden Olympia Omaha Orlando Oxford Palermo Pasadena Pensacola Perth Phoenix
    Pittsburgh Plymouth Portland Princeton Providence Quebec Raleigh Reading Redwood Richmond Riverside Rochester
    Rockford Salem Salford Savannah Seattle Sheffield Shelby Sheldon Somerset Spokane Springfield Stamford Sterling
    Stockton Sunnyvale Sydney Syracuse Tacoma Tampa Toledo Toronto Trenton Tucson Tulsa Utica Vancouver Vernon
    Waterloo Wellington Westport Wichita Windsor Winfield Worcester Yonkers Yorktown
    """
)

NOUNS = _words(
    """
    account acid actor airport alarm album alley almond anchor animal ankle apple apron arena arrow artist atlas
    autumn badge bakery balcony bamboo banner barley barn barrel basket battery beacon bearing bicycle blanket
    blade board boiler border bottle branch brass bread breeze brick bridge bronze brush bucket bundle button cabin
    cabinet cable camera canal candle canvas canyon carbon cargo carpet carrot castle cedar cellar cement center
    chain chalk channel chapel cherry chimney circuit citizen clay climate clinic cloth cloud coal coast coffee
    collar colony column compass concert copper corner cotton council county court cradle crane crayon cream creek
    crystal curtain cushion cylinder dairy desert detail diamond dinner doctor dolphin domain donkey drawer dredge
    driver eagle earth easel editor effort elbow emblem engine estate fabric factory falcon farmer feather fence
    ferry fiber field figure filter finger flame flavor flood flour flower folder forest fossil fountain frame
    freight fruit funnel furnace galaxy gallery garage garden garlic gasket gate gear ginger glacier glass globe
    glove grain granite grape gravel grove guard guitar hammer handle harbor harvest hazard helmet herb highway
    hinge honey horizon hotel hunter island jacket jewel journal jungle kernel kettle kitchen ladder lagoon lamp
    lantern laser lawn leather ledger lemon letter lever library lily linen lizard lobby locker lumber machine
    magnet maple marble margin market marsh meadow melody metal meteor mineral mirror motor mountain museum mustard
    napkin needle nickel nozzle nylon oasis ocean office olive onion orange orbit orchard outlet oxygen oyster
    packet paddle palace panel pantry parcel parlor pasture pebble pencil pepper petal piano pigeon pillar pillow
    pipe pistol piston planet plank plaster plate plaza pocket poem polymer pond poplar porch portal potato pottery
    powder prairie prism pulley pump puzzle quarry quartz rabbit radar radio ranch ribbon rice ridge river robot
    rocket roof root rope rubber saddle sail salmon sample sandal satin sauce scale school screen sensor shadow
    shelf shell shield shore signal silk silver siphon sleeve soil spark sphere spice spider spinach spiral spring
    square stable staple statue steam steel stone storm stove straw stream studio sugar summit supper switch syrup
    tablet tank tavern teapot temple tennis terrace theater thread thunder ticket timber tissue toast token tomato
    tower tractor trail train trailer treaty trench tripod trolley trumpet tube tulip tunnel turbine turkey valley
    valve vapor vault vehicle velvet vessel village vine violin visitor volcano voyage wagon walnut wallet water
    wheat wheel whistle willow window winter wire wolf wood wool workshop yard yarn yogurt zebra zinc
    """
)

ADJECTIVES = _words(
    """
    able acoustic active adequate amber ancient annual aquatic arctic artificial basic bitter blank bold brave
    brief bright broad brown busy calm careful casual central ceramic cheap chief clean clear clever coarse coastal
    cold common compact complex cool correct costly crisp crude curious curved daily damp dark deep delicate dense
    digital direct distant double dry dual durable eager early eastern elastic electric empty entire equal exact
    extra faint fair false famous fancy fast final fine firm fixed flat fluid formal fragile fresh front frozen
    full gentle giant glad global golden grand gray great green gross happy hard harsh heavy hidden hollow honest
    humid idle initial inner joint just keen large late lean light liquid little local logical lonely long loose
    loud low lower loyal lucky magnetic main major marine massive mature mellow mild minor mixed mobile modern
    modest moist narrow native natural neat neutral new noble noisy normal northern novel oblique old open optical
    ordinary outer oval pale parallel partial patient plain pleasant polite popular precise primary private proper
    proud public pure quick quiet random rapid rare raw ready real recent red regular remote rich rigid ripe rough
    round royal rural rustic safe salty scarce secret secure senior separate serious severe shallow sharp shiny
    short silent simple single slender slim slow small smooth social soft solar solid sour southern spare special
    spicy stable steady steep sticky stiff still strange strict strong sturdy subtle sudden sunny super sweet swift
    tall tame tender thermal thick thin tidy tight tiny total tough toxic true typical ultra unique upper urban
    urgent useful usual vacant vague valid vast vertical vital vivid warm weak wealthy weekly western wet white
    whole wide wild wise wooden yellow young
    """
)

VERBS = _words(
    """
    accepts adjusts admits advises affects allows alters applies arranges assigns attracts balances becomes begins
    blocks borrows builds carries catches causes changes checks claims clears collects combines compares completes
    conducts confirms connects considers contains controls covers creates crosses defines delays delivers depends
    describes designs develops directs divides doubles drives employs enables enters equals exceeds expands
    explains exports extends feeds fills finds finishes follows forms gathers generates governs guides handles
    heats helps holds improves includes increases indicates informs inspects installs involves joins keeps launches
    leads leaves limits loads maintains manages matches measures meets mixes monitors moves needs notes observes
    obtains offers opens operates orders owns passes performs permits places plans precedes prepares presents
    prevents produces promotes protects proves provides publishes purchases pushes reaches receives records reduces
    reflects regards removes repairs replaces reports represents requires restores retains returns reveals reviews
    runs saves selects sends separates serves shifts shows signals sorts speeds starts stops stores studies submits
    supplies supports surrounds tests tracks trades transfers travels treats turns uses varies visits warns watches
    weighs welcomes widens works writes yields
    """
)

PRODUCTS = _words(
    """
    adapter almonds apricots apron bagel baguette bandage batteries beans biscuit blender bolts bookmark boots
    bracket broccoli brownie bulb burger butter calendar caramel cashews cereal charger cheddar chisel chocolate
    cider clamp cleaner coaster cocoa cola cookies cordless coriander crackers croissant cucumber cupcake curry
    detergent dishcloth doughnut drill dumpling earphones envelope espresso eraser fastener flashlight flask fudge
    funnel glue granola grater grill gum hairbrush hanger headset hinge hose hummus icecream jam jelly juice
    keyboard ketchup labels lasagna latte lemonade lettuce lipstick lotion mango marker mat mayonnaise milk mocha
    mop mouse muffin mug mushroom nails napkins noodles notebook nuts oatmeal oil omelet paint pancake paper pasta
    peanut pen perfume pickles pizza plug popcorn pretzel pudding radish raisins ravioli razor rice ruler salad
    salami salsa sandwich sardines scissors screws seeds shampoo sherbet shovel skewer skillet soap socks soda soup
    spatula sponge spoon stapler stickers strawberry sunscreen sweater tape tea teriyaki thermos tiles toffee tongs
    toothpaste torch towel tray trowel tuna umbrella vanilla vinegar waffle washer wax whisk wrench yoghurt zipper
    zucchini
    """
)

INDUSTRIES = _words(
    """
    Advertising Aviation Bakeries Books Builders Capital Catering Ceramics Chemicals Clothing Communications
    Consulting Dairies Design Distribution Electronics Energy Engineering Enterprises Equipment Farms Fashion
    Financial Foods Freight Furniture Glassworks Graphics Hardware Holdings Hospitality Imports Industries
    Instruments Insurance Interiors Laboratories Lighting Logistics Machinery Marketing Media Medical Metals Mills
    Motors Optics Packaging Papers Partners Pharmacy Plastics Plumbing Polymers Printing Produce Publishing
    Research Restaurant Roofing Security Services Shipping Software Solutions Stationery Steelworks Stores Supplies
    Systems Textiles Tools Toys Trading Transport Ventures Watches Wholesale
    """
)

SYLLABLES = _words(
    """
    ba be bi bo bra bri ca ce cha co cor da del di do dra dun e el en fa fen fi flo fra ga gen gle go gra ha hel hi
    hor in ja jen ka kel ki kor la len li lo lu ma mel mi mo mun na nel ni nor o or pa pel pi plo po pra qua ra rel
    ri ro run sa sel sha si sko so sta ster stri ta tel ti to tra tri tu u ul va vel vi vo wa wel wi yo za zen zi
    """
)

ENDINGS = _words("ck d ft g ld lm ll m n nd ng nt p r rd rk rm rn rt s sk ss st t th ton x ")

STREETS = _words("Street Avenue Road Lane Drive Boulevard Court Place Way Terrace Parkway Square")
COMPANY_FORMS = _phrases("Inc.; Ltd.; Co.; LLC; Corp.; & Sons; Group; Bhd; GmbH; Limited; Company")
STATES = _words("AL AZ CA CO CT FL GA IL IN KY MA MD MI MN MO NC NJ NV NY OH OR PA SC TN TX UT VA WA WI")
MONTHS = _words("January February March April May June July August September October November December")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

# Field labels by the type of value that follows them.
KEYS: dict[str, tuple[str, ...]] = {
    "date": _phrases(
        """
        Invoice Date; Due Date; Order Date; Date Received; Date of Birth; Expiry Date; Issue Date; Start Date; End
        Date; Date Submitted; Delivery Date; Date of Report; Effective Date; Field Date; Closing Date; Test Date;
        Ship Date; Date Approved; Date of Event; Date Wanted; Initiation Date; Completion Date; Date Reported;
        Renewal Date; Follow Up Date; Hire Date; Date of Visit; Sampling Date; Print Date; Review Date; Payment
        Date; Value Date; Admission Date; Date Assigned; Production Date; Best Before; Valid Until; Last Updated;
        Date Revised
        """
    ),
    "code": _phrases(
        """
        Invoice No; Order Number; Account No; Customer ID; Reference; Project Code; P.O. Number; Ref No; Tracking
        Number; Serial Number; Batch No; Lot No; Ticket Number; Policy Number; License No; Employee ID; Member ID;
        Item Code; Model Number; Case Number; File No; Document No; Check No; Registration No; Requisition No;
        Booking Reference; Claim Number; Study Number; Room Number; Product Code; Tax ID; Vendor Code; Notebook
        Page; Code No; Permit Number; Contract No; Confirmation Code; Cost Center; Job Number; Patient ID; Student
        ID; Form No; Vehicle Registration; Barcode; Routing Number; Docket; Terminal ID; Bill Number; Version;
        Department Code; Form ID
        """
    ),
    "name": _phrases(
        """
        Name; Customer Name; Contact Person; Prepared By; Approved By; Requested By; Manager; Supervisor; Sales
        Representative; Project Leader; Patient Name; Received By; Cashier; Attention; Investigator; Reported By;
        Submitted By; Issued By; Full Name; Employee Name; Director; Sender; Author; Reviewed By; Authorized By;
        Checked By; Guardian; Emergency Contact; Operator; Witness; Technician; Inspector; Ordered By; Physician;
        Account Manager; Applicant; Other Personnel Assigned; Study Director; Maker; Originator; Served By; Buyer;
        Next of Kin
        """
    ),
    "company": _phrases(
        """
        Company; Supplier; Vendor; Manufacturer; Client; Employer; Bill To; Sold To; Customer; Company Name;
        Carrier; Research Firm; Distributor; Agency; Insurance Company; Organization; Laboratory; Contractor; Bank;
        Recommended Supplier; Name of Account; Landlord; Exporter; Consignee
        """
    ),
    "amount": _phrases(
        """
        Amount Due; Total Amount; Balance; Unit Price; Shipping; Discount; Deposit; Net Amount; Grand Total;
        Balance Due; Sales Tax; Amount Paid; Budget; Cost Estimate; Estimated Cost; Annual Salary; Monthly Rent;
        Service Charge; Total Budget; Revised Budget; Freight; Insurance; Handling; Fee; Price; Total Cost; Credit
        Limit; Opening Balance; Closing Balance; Minimum Payment; Late Fee; Net Pay; Gross Pay; Rounding; Amount
        Tendered; Overtime; Postage; Refund; Previous Balance; Unpaid Balance; Cash Advance
        """
    ),
    "phone": _phrases(
        """
        Phone; Telephone; Fax; Mobile; Phone Number; Telephone No; Fax Number; Home Phone; Work Phone; Cell Phone;
        Daytime Telephone; Contact Number; Office Phone; Hotline; Customer Service; Beeper Number
        """
    ),
    "email": _phrases("Email; E-mail Address; Contact Email; Email Address; Reply To"),
    "website": _phrases("Website; Web Site; Internet; Order Online"),
    "address": _phrases(
        """
        Address; Home Address; Mailing Address; Ship To; Billing Address; Delivery Address; Office Address; Street
        Address; Mail To; Remit To; Shipping Address; Place of Work; Site Address; Return Address
        """
    ),
    "place": _phrases(
        """
        City; Location; Region; Branch; Place; Division; Country; Destination; Port of Entry; Place of Birth;
        District; Area; Origin; Site; Territory; Sales Region; Store; County; Market; Division Name; City of
        Residence; Depot
        """
    ),
    "percent": _phrases(
        """
        Tax Rate; Interest Rate; Discount Rate; Moisture Content; Completion; Share; Growth; Response Rate; Margin;
        Humidity; Attendance Rate; Utilization; Yield; Incidence; Recall; Efficiency
        """
    ),
    "integer": _phrases(
        """
        Quantity; Number of Pages; Number of Copies; Sample Size; Total Pages; Units; Boxes; Employees; Attendance;
        Estimated Attendance; Age; Dependents; Headcount; Guests; Number of Stores; Copies; Pieces; No. of Items;
        Total Sample; Stock; Page; Capacity; Years Employed; Respondents; Rods Per Min; Batch Size
        """
    ),
    "measure": _phrases(
        """
        Weight; Length; Width; Height; Net Weight; Temperature; Pressure Drop; Circumference; Volume; Duration;
        Filter Length; Overall Length; Gross Weight; Rod Length; Depth; Speed; Voltage; Tar; Dosage; Bobbin Width;
        Distance; Blood Pressure; Mileage; Thickness; Density; Power; Print Position
        """
    ),
    "time": _phrases(
        "Time; Start Time; Arrival Time; Departure; Check Out; Opening Hours; Time In; Time Out; End Time"
    ),
    "words": _phrases(
        """
        Subject; Title; Project Name; Product; Brand; Type; Category; Department; Color; Material; Status; Method;
        Product Name; Brand Name; Project Title; Compound; Job Title; Position; Item; Occupation; Name of Event;
        Study Name; Type of Product; Condition; Class; Terms; Priority; Course; Program; Test Type; Promotion;
        Purpose; Theme; Department Name; Topic; Payment Method; Delivery Terms; Payment Terms; Source; Solvent;
        Grade; Campaign; Model; Formula; Paper Type; Packing; Specification; Event; Kind of Service; Nature of
        Business; Ship Via
        """
    ),
    "sentence": _phrases(
        """
        Comments; Remarks; Description; Project Objective; Reason; Notes; Special Instructions; Additional
        Comments; Conclusion; Recommendation; Other Information; Diagnosis; Reason for Request; Summary;
        Background; Objective; Action Required; Scope of Work; Reason for the Amendment; Observations; Findings;
        Complaint; Next Steps; Description of Work; Key Criteria; Research Limitations; Medical History; Delivery
        Instructions
        """
    ),
    "short": _phrases("Sex; Shift; Size; Section; Zone; Rating; Gate; Group; Level; Grade Level; Class Code; Suite"),
    "yesno": _phrases(
        """
        Fragile; Confidential; Insured; Tax Exempt; Paid; Renewable; Taxable; Refundable; Urgent; Member;
        Recurring; Returnable; Licensed; Smoker; Married; Registered Voter
        """
    ),
}

# Last words of composed labels ("Turbine Serial", "Orchard Fee") by the type of value that follows.
KEY_HEADS: dict[str, tuple[str, ...]] = {
    "date": _words("Date Deadline"),
    "code": _words("Code Number No. ID Serial Ref Key"),
    "name": _words("Name Manager Officer Contact Agent Clerk Leader"),
    "company": _words("Supplier Dealer Agency Vendor"),
    "amount": _words("Amount Cost Price Fee Total Charge Value Budget"),
    "phone": _words("Phone Fax Line"),
    "place": _words("Site Region Branch Location Depot"),
    "percent": _words("Rate Share Ratio Margin"),
    "integer": _words("Count Quantity Units Level Score"),
    "measure": _words("Weight Length Width Depth Volume Pressure"),
    "time": _words("Time Hour"),
    "words": _words("Type Class Group Brand Material Method Status"),
    "sentence": _words("Notes Remarks Comment Description"),
}

TICK_LABELS = _phrases(
    """
    Yes; No; Male; Female; Single; Married; Full Time; Part Time; Cash; Credit Card; Check; New; Renewal; Urgent;
    Routine; Domestic; Export; Weekly; Monthly; Annual; Approved; Rejected; Pending; Rent; Own; Purchasing;
    Stationary; Radio; Print Media; Landlord; Friend; Other; Email; Post; Pick Up; Morning; Afternoon; Evening;
    Air; Ground; Sea; Personal; Business; Original; Copy; Taxable; Exempt; Water; Electric; Gas; House; Apartment;
    Studio; Duplex
    """
)

FORM_TITLES = _phrases(
    """
    Request Form; Application Form; Purchase Requisition; Project Initiation Form; Expense Report; Registration
    Form; Progress Report; Patient Information; Inspection Report; Fax Cover Sheet; Work Order; Change Request;
    Test Report; Trial Specification; Final Report Amendment; Budget Summary; Data Sheet; Claim Form; Delivery
    Note; Service Report; Membership Application; Analysis Report; Special Event Request; Employee Record; Incident
    Report; Field Report; Shipping Notice; Travel Authorization; Product Test; Sample Submission; Laboratory
    Request; Time Sheet; Approval Form
    """
)
